"""Server: the explorer's process. One for all viewers; stores are opened once and followed once.

    server = Explorer([Path("runs/digits/digits.zarr")], port=0)
    server.url                        # "http://127.0.0.1:41913/"
    server.run()                      # until Ctrl-C

It listens before the first store is open and before what reads and draws is imported, so that a browser finds it at
once. Panel builds the page, Bokeh's own server
classes serve it; both bring their JavaScript, so that no request leaves the machine.
"""

import contextlib
import gc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bokeh.document import Document
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.util import bind_sockets
from panel.config import config
from panel.io import state as panel_state
from panel.io.application import build_applications
from panel.io.resources import DIST_DIR
from panel.io.server import INDEX_HTML  # noqa: F401 - importing the module puts Panel's handlers in Bokeh's place
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.web import RequestHandler

from actigrad.errors import ActigradError
from actigrad.explorer.download import Download
from actigrad.explorer.security import Guard, make_access
from actigrad.explorer.session import Session
from actigrad.explorer.source import Source

FOLLOW_MS = 1000
WORKERS = 4


class Explorer:
    """The server of some stores.

    Args:
        paths: the stores; nothing else is ever read.
        address: where to listen; any but loopback needs the token in `url`.
        port: 0 for any that is free.

    Raises:
        ActigradError: when the address or the port cannot be used.
    """

    def __init__(self, paths: Sequence[str | Path], *, address: str = "127.0.0.1", port: int = 0):
        self.sources = {name: Source(name, path) for name, path in name_stores(paths).items()}
        self.pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="read")
        self.sessions: set[Session] = set()
        self._following, self._settings = False, contextlib.ExitStack()
        make_access(address, 0)  # the address is checked before anything is bound
        try:
            sockets, self.port = bind_sockets(address, port)
        except OSError as error:
            raise ActigradError(
                f"cannot listen on {address} port {port}: {error.strerror}. Choose another --port."
            ) from error
        self.access = make_access(address, self.port)
        shown = "127.0.0.1" if address in ("localhost", "0.0.0.0", "::") else address
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}/"
        self.link = self.url + (f"?token={self.access.token}" if self.access.token else "")
        self.loop = IOLoop.current()
        self._server = self._serve(sockets)
        self._follower = PeriodicCallback(self.follow, FOLLOW_MS)

    def start(self) -> None:
        """Serve on the current loop; open the stores meanwhile."""
        self._server.start()
        self._follower.start()
        self._ready = self.loop.run_in_executor(self.pool, self._get_ready)
        self.loop.add_callback(self._begin)

    def run(self) -> None:
        """Serve until Ctrl-C."""
        self.start()
        with contextlib.suppress(KeyboardInterrupt):
            self.loop.start()
        self.stop()

    def stop(self) -> None:
        """Close every session and the port."""
        self._follower.stop()
        for session in list(self.sessions):
            session.close()
        self._server.unlisten()
        self._server.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._settings.close()

    def _serve(self, sockets: list) -> BaseServer:
        config.reconnect = True
        applications = build_applications({"/": self._open_page}, title="actigrad", location=False)
        shared = {"sources": self.sources, "pool": self.pool}
        routes = [(r"/download", Download, shared), (r"/alive", _Alive)]
        tornado = BokehTornado(
            applications,
            extra_websocket_origins=sorted(self.access.hosts),
            extra_patterns=routes,
            include_headers=[],
            include_cookies=[],
            ico_path=str(DIST_DIR / "images" / "favicon.ico"),
            websocket_max_message_size_bytes=1 << 20,  # of what a browser says
            unused_session_lifetime_milliseconds=30_000,
            check_unused_sessions_milliseconds=5_000,
        )
        http = HTTPServer(Guard(tornado, self.access))
        http.add_sockets(sockets)
        return BaseServer(self.loop, tornado, http)

    def _open_page(self):
        document = panel_state.curdoc
        assert isinstance(document, Document)
        session = Session(self.sources, self.pool, document, _query(panel_state.session_args))
        self.sessions.add(session)
        document.on_session_destroyed(partial(self._close, session))
        return session.page

    def _close(self, session: Session, _) -> None:
        session.close()
        self.sessions.discard(session)

    def _get_ready(self) -> None:
        """Import what reads and draws, while the browser starts."""
        import dask.config
        import dask.threaded

        # By a function, and not by a name: else Dask imports all of `distributed` to see whether there is a cluster.
        self._settings.enter_context(dask.config.set(scheduler=dask.threaded.get))
        from actigrad.explorer import reading  # noqa: F401

    async def _begin(self) -> None:
        """The first look at the stores, then what only a later picture needs."""
        try:
            await self.follow()
        finally:
            if not gc.isenabled():  # as `actigrad explore` starts, to start sooner
                gc.freeze()  # modules and stores stay: no collection need look at them again
                gc.enable()
        from actigrad.pictures.levels import preload  # imported by now

        await self.loop.run_in_executor(self.pool, preload)

    async def follow(self) -> None:
        """Look at the stores in a worker thread; tell the viewers when something is new."""
        if self._following:
            return
        self._following = True
        try:
            await self._ready  # one thread imports: two at once find each other's modules half made
            changed = [await self.loop.run_in_executor(self.pool, one.follow) for one in self.sources.values()]
            if any(changed):
                for session in list(self.sessions):
                    session.document.add_next_tick_callback(session.update)
        finally:
            self._following = False


class _Alive(RequestHandler):
    """A page that lost its server asks here whether it is back."""

    def get(self) -> None:
        self.set_status(204)


def name_stores(paths: Sequence[str | Path]) -> dict[str, Path]:
    """A short name for each store: its own, and where two are called the same, with a number.

    >>> list(name_stores(["a/run.zarr", "b/run.zarr"]))
    ['run', 'run 2']
    """
    named: dict[str, Path] = {}
    for path in map(Path, paths):
        stem, name, n = path.stem or str(path), path.stem or str(path), 1
        while name in named:
            n += 1
            name = f"{stem} {n}"
        named[name] = path
    return named


def _query(arguments: dict[str, list[bytes]]) -> str:
    from urllib.parse import urlencode

    return urlencode({name: values[-1] for name, values in arguments.items() if values})

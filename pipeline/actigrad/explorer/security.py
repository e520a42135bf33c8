"""Security: who may ask this server for what. Everything that is not allowed here is refused before it is looked at.

- **The host.** A page of a stranger can point a name of its own at 127.0.0.1 and have the browser ask there (DNS
  rebinding); so the `Host` that is asked for must be this server's.
- **The token.** Where the server listens on any other address than loopback, every request needs the token that was
  printed. It comes once, in the address, and is a cookie from then on: it does not stay in addresses that are shared.
- **The path.** Only the page, its websocket, the resources of Bokeh and Panel and the download: Panel's route
  `/components/` would import any module that is asked for.
- **The websocket's origin** is checked by Bokeh itself, against the same hosts.
"""

import hmac
import ipaddress
import re
import secrets
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from tornado.httputil import HTTPServerRequest
from tornado.routing import Router
from tornado.web import Application, RequestHandler

from actigrad.errors import ActigradError

PATHS = re.compile(r"/|/ws|/alive|/download|/favicon\.ico|/static/[\w./@^+-]+")
COOKIE = "actigrad_token"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """Who may come in.

    Attributes:
        hosts: the `Host`s that this server answers to, with port, in lower case.
        token: what a request must have, or "" where only this machine can reach the server.
    """

    hosts: frozenset[str]
    token: str

    def refuse(self, request: HTTPServerRequest) -> tuple[int, str] | None:
        """The status and the sentence of a refusal, or None."""
        if request.host.lower() not in self.hosts:
            return 421, f"This server is at {', '.join(sorted(self.hosts))}."
        path = unquote(request.path)
        if not PATHS.fullmatch(path) or ".." in path:
            return 404, "There is nothing here."
        if request.method not in ("GET", "HEAD"):
            return 405, "This server is read-only."
        if self.token and not self._knows_token(request):
            return 403, "Open the address that `actigrad explore` printed, with its token."
        return None

    def _knows_token(self, request: HTTPServerRequest) -> bool:
        cookie = SimpleCookie(request.headers.get("Cookie", "")).get(COOKIE)
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self.token.encode())

    def brings_token(self, request: HTTPServerRequest) -> bool:
        """Whether the address has the token in it."""
        given = dict(parse_qsl(request.query)).get("token", "")
        return bool(self.token) and hmac.compare_digest(given.encode(), self.token.encode())


def make_access(address: str, port: int) -> Access:
    """Access to a server at an address; a new token for any but loopback.

    Raises:
        ActigradError: when the address is none.
    """
    if address == "localhost":
        address = "127.0.0.1"
    try:
        ip = ipaddress.ip_address(address)
    except ValueError as error:
        raise ActigradError(f"--address {address!r} is not an IP address; 127.0.0.1 is this machine alone.") from error
    own = f"[{ip}]" if ip.version == 6 else str(ip)
    names = {own, "127.0.0.1", "localhost"} if ip.is_loopback or ip.is_unspecified else {own}
    names |= _own_names() if ip.is_unspecified else set()
    hosts = frozenset(f"{name}:{port}".lower() for name in names)
    return Access(hosts, "" if ip.is_loopback else secrets.token_urlsafe(24))


class Guard(Router):
    """Stands before the application: a request passes, gets its cookie, or is refused."""

    def __init__(self, application: Application, access: Access):
        self.application, self.access = application, access

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any):
        """The application's own handler for what is allowed."""
        refused = self.access.refuse(request)
        if refused is None:
            return self.application.find_handler(request, **kwargs)
        if refused[0] == 403 and self.access.brings_token(request):
            return self.application.get_handler_delegate(request, _Welcome, {"token": self.access.token})
        status, told = refused
        return self.application.get_handler_delegate(request, _Refusal, {"status": status, "told": told})


class _Refusal(RequestHandler):
    def initialize(self, status: int, told: str) -> None:
        self.status, self.told = status, told

    def set_default_headers(self) -> None:
        """Not to be kept or guessed at."""
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        self.set_status(self.status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(self.told + "\n")


class _Welcome(RequestHandler):
    def initialize(self, token: str) -> None:
        self.token = token

    def prepare(self) -> None:
        """The token becomes a cookie, and leaves the address."""
        rest = [(name, value) for name, value in parse_qsl(self.request.query) if name != "token"]
        self.set_cookie(COOKIE, self.token, httponly=True, samesite="Strict", path="/")
        self.redirect("/" + (f"?{urlencode(rest)}" if rest else ""))


def _own_names() -> set[str]:
    """What this machine is called, and its addresses."""
    import socket

    name = socket.gethostname()
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(name, None, family=socket.AF_INET)}
    except OSError:
        addresses = set()
    return {name, *addresses}

"""Page: what the browser runs (`page.js`, `page.css`) and the values that it gets.

Everything that comes from a store is written by the browser as text, never as markup. The browser sends wishes
(`change`, `query`), Python answers with the state that they lead to; there is one direction each, so no loops.
"""

from pathlib import Path
from typing import Any

import param
from panel.custom import JSComponent
from panel.viewable import Child

HERE = Path(__file__).parent


class Page(JSComponent):
    """The page of one viewer.

    Attributes:
        state: every field of the state as text, and the `query` that the address shows.
        choices: what each control offers.
        told: `notes` on what is not shown as asked, `fatal` when nothing can be shown, `live` while a run goes on.
        structure, overview, heatmap, card: what the page writes beside the figures, or `error`.
    """

    state = param.Dict(default={})
    choices = param.Dict(default={})
    told = param.Dict(default={})
    structure = param.Dict(default={})
    overview = param.Dict(default={})
    heatmap = param.Dict(default={})
    card = param.Dict(default={})

    overview_figure = Child()
    heatmap_figure = Child()
    traces_figure = Child()
    bars_figure = Child()

    @classmethod
    def _patch_datamodel_ref(cls, props: Any, ref: str) -> None:
        """At the first change alone: at each, Panel looks through all models of the page for new ones."""
        if f"__ref:{ref}" not in props.tags:
            super()._patch_datamodel_ref(props, ref)

    _esm = (HERE / "page.js").read_text(encoding="utf-8")
    _stylesheets = [(HERE / "page.css").read_text(encoding="utf-8")]  # noqa: RUF012 - Panel reads it

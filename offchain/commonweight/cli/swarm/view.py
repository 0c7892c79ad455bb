"""What a person sees of a local swarm: a live table on a terminal, plain lines in a pipe, a picture at the end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...diloco.plot import Series, plot
from ..demo.view import spark
from ..live import LiveView
from .supervisor import Known, Supervisor

RECENT = 12
TRAIL = 24


def tell(name: str, event: dict[str, Any]) -> str:
    """One line for an event worth telling, or nothing."""
    kind = event["event"]
    if kind == "adopted":
        return f"{name} recovered {event['bytes']} bytes from a neighbour, root {event['root'][:12]} checked"
    if kind == "anchor":
        return (
            f"{name} round {event['round']}: anchor {event['root'][:12]} over {len(event['members'])} members, "
            f"validation loss {event['loss']:.4f}, {event['distance']:.2%} from the mean before it"
        )
    if kind == "put_out":
        return f"{name} was put out: {event['reason']}"
    if kind == "failed":
        return f"{name} failed: {event['reason']}"
    if kind == "finished":
        return f"{name} finished with model {event['model'][:12]}"
    return ""


class SwarmView(LiveView):
    """What members of a swarm did, and how they stand."""

    def __init__(self, console: Console, title: str) -> None:
        super().__init__(console, title, RECENT)
        self._told: set[tuple[str, int]] = set()

    def events(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        """Tell what members did; of an anchor, that all have, only once."""
        for name, event in events:
            if event["event"] == "anchor":
                key = (event["root"], event["round"])
                if key in self._told:
                    continue
                self._told.add(key)
            if text := tell(name, event):
                self.say(text)

    def show(self, swarm: Supervisor) -> None:
        """Redraw the live table."""
        if self.live is not None:
            self.draw(Text(self.title, style="bold"), table(swarm.known))


def table(known: dict[str, Known]) -> Table:
    """One row per member."""
    out = Table(expand=True)
    for column in ("member", "state", "round", "training loss", "", "peers", "sent", "agreed root"):
        out.add_column(column)
    for name, k in known.items():
        losses = [loss for _, loss in k.losses[-TRAIL:]]
        out.add_row(
            name,
            k.state,
            str(k.round) if k.round >= 0 else "",
            f"{losses[-1]:.4f}" if losses else "",
            spark(losses),
            str(len(k.members)) if k.members else "",
            f"{k.sent / 1e6:.2f} MB",
            k.root[:12],
        )
    return out


def picture(known: dict[str, Known]) -> str:
    """Training loss of every member by round, and the anchors' validation loss."""
    lines = [Series(name, tuple((float(r), loss) for r, loss in k.losses)) for name, k in known.items()]
    anchors = {a["round"]: a["loss"] for k in known.values() for a in k.anchors}
    lines.append(
        Series("validation at anchors", tuple((float(r), x) for r, x in sorted(anchors.items())), dots=True)
    )
    return plot("A swarm over a sparse graph", "round", "nats per byte", lines)

"""A machine as a graph in the DOT language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from dmaproof.drawing import Picture, Row, Tone, acs_words, buses, capabilities, folded
from dmaproof.model.pcie.device import Bdf
from dmaproof.overview import Leak

_FILLS = ("#cfe3fb", "#d8f0d3", "#fbe3c4", "#e5d9f7", "#f9d5de", "#cdeeee", "#f3efb8", "#dfe0ea")


def dot(picture: Picture) -> str:
    """Return *picture* as the text of a DOT file; groups of several members share a colour."""
    return "\n".join([*_lines(picture), ""])


def _lines(picture: Picture) -> Iterator[str]:
    yield f"digraph {_quoted(picture.machine.name)} {{"
    yield "  rankdir=LR; ordering=out; ranksep=0.4; nodesep=0.2;"
    yield '  node [fontname="monospace", shape=box]; edge [fontname="monospace", color="#667085"];'
    shown: dict[Bdf, str] = {}
    roots: dict[str, str] = {}
    every = iter(picture.rows)
    for row in folded(picture.rows):
        node = _quoted(str(row.device.bdf))
        for _ in range(row.alike + 1):
            shown[next(every).device.bdf] = node
        yield f"  {node} [{_attributes(picture, row)}];"
        parent = picture.machine.parent(row.device.bdf)
        if parent is None:
            root = f'"root bus {row.device.bdf.domain:04x}:{row.device.bdf.bus:02x}"'
            roots.setdefault(root, f"  {root} [shape=plaintext];")
        yield f"  {root if parent is None else shown[parent]} -> {node} [arrowhead=none];"
    yield from roots.values()
    for leak in picture.overview.leaks:
        yield from _leak(leak, shown)
    yield "}"


def _attributes(picture: Picture, row: Row) -> str:
    device = row.device
    signs = {Tone.ON: "+", Tone.OFF: "-", Tone.IDLE: "-"}
    marks = [text + signs.get(tone, "") for text, tone in acs_words(picture.machine, device)]
    if len(marks) == 1:
        marks = [acs_words(picture.machine, device)[0][0].split(" (")[0]]
    place = f"group {row.group_text}" + (
        "" if row.component is None else f", component {row.component}"
    )
    name = str(device) + (f" and {row.alike} more like it" if row.alike else "")
    lines = [name, " ".join([device.kind_name, buses(device)]).strip(), " ".join(marks),
             capabilities(device), place]
    fill = picture.fill(row, _FILLS)
    leaks = row.component is not None and row.component in picture.leaking
    style = "filled" if device.is_bridge else "filled,rounded"
    edge = "#c62828" if leaks else "#1c2330"
    label = _quoted("\n".join(line for line in lines if line))
    return f'label={label}, style="{style}", fillcolor="{fill}", color="{edge}"'


def _leak(leak: Leak, shown: dict[Bdf, str]) -> Iterator[str]:
    edge = leak.edge
    if edge.target is not None:
        label = _quoted(f"{edge.channel} ({edge.channel.leak})")
        yield (
            f"  {shown[edge.source]} -> {shown[edge.target]}"
            f' [label={label}, color="#c62828", fontcolor="#c62828", style=dashed,'
            " constraint=false];"
        )


def _quoted(text: str) -> str:
    """Return *text* as a DOT string."""
    plain = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

"""A machine as SVG: the tree, ACS letters, groups, components and the ways that leak.

Written with the standard library, so that names are escaped and the file is well-formed whatever
they hold. Fonts differ between computers: columns are spaced for the widest monospaced ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import wrap
from xml.etree import ElementTree as Tree

from dmaproof.drawing import (
    Picture,
    Row,
    Tone,
    acs_words,
    buses,
    capabilities,
    counted,
    folded,
)
from dmaproof.model.pcie.device import ACS_BITS, Bdf, Device
from dmaproof.overview import Leak

ROW, HEAD, MARGIN, STEP = 24, 96, 24, 22
LETTER = 8.0
"""Width of a character of the text, in pixels."""
SLOT = 26
"""Width of a column of ACS letters."""
MAX_ARCS = 12

_FONT = "'DejaVu Sans Mono', 'Liberation Mono', Menlo, Consolas, monospace"
_INK, _DIM, _FAINT, _RED = "#1c2330", "#667085", "#d5dae3", "#c62828"
_TONES = {
    Tone.ON: "#1b7f3b", Tone.OFF: _RED, Tone.IDLE: "#98a2b3", Tone.DOUBT: "#9a6700",
    Tone.PLAIN: _DIM,
}  # fmt: skip
_FILLS = (
    "#cfe3fb", "#d8f0d3", "#fbe3c4", "#e5d9f7", "#f9d5de", "#cdeeee", "#f3efb8", "#dfe0ea",
    "#e9dccb", "#d5e8c9", "#f6d9f3", "#c9d8ee",
)  # fmt: skip
_KINDS = {
    "root-port": "root port",
    "upstream-port": "upstream port",
    "downstream-port": "downstream port",
    "rc-integrated-endpoint": "integrated endpoint",
    "rc-event-collector": "event collector",
}


@dataclass(frozen=True)
class _Columns:
    """Where the columns start, in pixels."""

    acs: float
    more: float
    group: float
    component: float
    arcs: float
    width: float


def svg(picture: Picture) -> str:
    """Return *picture* as the text of an SVG file."""
    rows = folded(picture.rows)
    lanes = min(len(picture.overview.leaks), MAX_ARCS)
    columns = _columns(picture, rows, lanes)
    notes = _notes(picture, int((columns.width - 2 * MARGIN) / LETTER))
    height = HEAD + len(rows) * ROW + 28 + len(notes) * 20 + MARGIN
    root = Tree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {columns.width:.0f} {height}",
            "width": f"{columns.width:.0f}",
            "height": str(height),
            "font-family": _FONT,
            "font-size": "13",
            "role": "img",
        },
    )
    Tree.SubElement(root, "title").text = _clean(f"PCI machine {picture.machine.name}")
    _box(root, 0, 0, columns.width, height, "#ffffff")
    _heading(root, picture, columns)
    for place, row in enumerate(rows):
        _row(root, picture, row, place, columns)
    _tree_lines(root, rows)
    _arcs(root, picture, rows, columns)
    for place, (text, colour) in enumerate(notes):
        _text(root, MARGIN, HEAD + len(rows) * ROW + 36 + place * 20, text, colour)
    Tree.indent(root, " ")
    return Tree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


# -- layout --------------------------------------------------------------------------------------


def _columns(picture: Picture, rows: tuple[Row, ...], lanes: int) -> _Columns:
    tree = max(_x(row) + 20 + LETTER * len(_plain(row)) for row in rows)
    more = max([12, *(len(_more(row)) for row in rows)])
    acs = tree + 28
    after = acs + SLOT * len(ACS_BITS) + 16
    group = after + LETTER * more + 24
    component = group + 24 + max(60, LETTER * max(len(row.group_text) for row in rows) + 14)
    arcs = component + 108
    width = max(arcs + 26 * lanes + MARGIN, 640, 2 * MARGIN + LETTER * len(_summary(picture)))
    return _Columns(acs, after, group, component, arcs, width)


def _x(row: Row) -> float:
    return MARGIN + STEP * (len(row.lines) - 1)


def _y(place: int) -> float:
    return HEAD + ROW * (place + 0.5)


def _words(row: Row) -> tuple[tuple[str, str, bool], ...]:
    """Return the text of a row in the tree: words with colour and weight."""
    device = row.device
    words = [(str(device.bdf), _INK, device.is_bridge)]
    if device.label:
        words.append((device.label, "#0b5394", True))
    words.append((_KINDS.get(device.kind_name, device.kind_name), _DIM, False))
    if buses(device):
        words.append((buses(device), _DIM, False))
    if row.alike:
        words.append((f"and {row.alike} more like it", _INK, True))
    return tuple((_clean(text), colour, bold) for text, colour, bold in words)


def _plain(row: Row) -> str:
    return "  ".join(text for text, _, _ in _words(row))


def _more(row: Row) -> str:
    text = _clean(capabilities(row.device))
    return text if len(text) <= 44 else text[:43] + "…"


def _clean(text: str) -> str:
    """Return *text* without characters that XML has no way to write."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


# -- parts ---------------------------------------------------------------------------------------


def _text(
    parent: Tree.Element, x: float, y: float, text: str, colour: str = _INK, **more: str
) -> Tree.Element:
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "fill": colour}
    attributes |= {name.replace("_", "-"): value for name, value in more.items()}
    element = Tree.SubElement(parent, "text", attributes)
    element.text = _clean(text)
    return element


def _box(
    parent: Tree.Element, x: float, y: float, width: float, height: float, fill: str, **more: str
) -> Tree.Element:
    sizes = {"x": x, "y": y, "width": width, "height": height}
    attributes = {name: f"{value:.1f}" for name, value in sizes.items()}
    attributes |= {"fill": fill} | {n.replace("_", "-"): value for n, value in more.items()}
    return Tree.SubElement(parent, "rect", attributes)


def _line(parent: Tree.Element, path: str, colour: str, **more: str) -> Tree.Element:
    attributes = {"d": path, "fill": "none", "stroke": colour}
    attributes |= {name.replace("_", "-"): value for name, value in more.items()}
    return Tree.SubElement(parent, "path", attributes)


def _summary(picture: Picture) -> str:
    machine, seen = picture.machine, picture.overview
    return (
        f"{counted(len(machine.functions), 'function')}, {counted(len(machine.ports), 'port')}; "
        f"{counted(seen.components, 'fabric component')}, "
        f"{counted(seen.groups, 'group')} with functions (grouping {picture.grouping})"
    )


def _heading(root: Tree.Element, picture: Picture, columns: _Columns) -> None:
    _text(root, MARGIN, 30, picture.machine.name, font_size="18", font_weight="bold")
    _text(root, MARGIN, 52, _summary(picture), _DIM)
    titles = (
        (MARGIN, "function or port"), (columns.acs, "ACS"), (columns.more, "capabilities"),
        (columns.group, "group"), (columns.component, "component"),
    )  # fmt: skip
    for x, title in titles:
        _text(root, x, HEAD - 14, title, _DIM, font_size="12")
    _text(root, columns.acs + 34, HEAD - 14, "on", _TONES[Tone.ON], font_size="12")
    _text(root, columns.acs + 58, HEAD - 14, "off", _TONES[Tone.OFF], font_size="12")
    _line(root, f"M{MARGIN} {HEAD - 4}H{columns.width - MARGIN:.0f}", _FAINT)


def _row(root: Tree.Element, picture: Picture, row: Row, place: int, columns: _Columns) -> None:
    line = Tree.SubElement(root, "g")
    if place % 2:
        width = columns.width - MARGIN
        _box(line, MARGIN / 2, HEAD + ROW * place, width, ROW, "#f6f7f9")
    y = _y(place)
    _icon(line, row.device, _x(row) + 6, y)
    x = _x(row) + 20
    for text, colour, bold in _words(row):
        _text(line, x, y + 4.5, text, colour, **({"font_weight": "bold"} if bold else {}))
        x += LETTER * (len(text) + 2)
    _acs(line, picture, row, y, columns)
    more = _text(line, columns.more, y + 4.5, _more(row), _DIM)
    _tip(more, capabilities(row.device))
    fill = picture.fill(row, _FILLS)
    _tip(_chip(line, columns.group, y, row.group_text, fill, _DIM), row.why)
    if row.component is not None:
        leaks = row.component in picture.leaking
        fill = "#fde3e1" if leaks else "#ffffff"
        _chip(line, columns.component, y, str(row.component), fill, _RED if leaks else _DIM)


def _icon(parent: Tree.Element, device: Device, x: float, y: float) -> None:
    """Draw a square for a port or bridge, a circle for a function."""
    if device.is_bridge:
        _box(parent, x - 5, y - 5, 10, 10, "#ffffff", stroke=_INK, stroke_width="1.5")
        return
    fill = "#ffffff" if device.is_virtual else _INK
    place = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "4.5", "fill": fill}
    Tree.SubElement(parent, "circle", {**place, "stroke": _INK, "stroke-width": "1.5"})


def _acs(parent: Tree.Element, picture: Picture, row: Row, y: float, columns: _Columns) -> None:
    words = acs_words(picture.machine, row.device)
    if len(words) == 1:
        (text, tone) = words[0]
        short = text.split(" (")[0]
        _tip(_text(parent, columns.acs, y + 4.5, short, _TONES[tone]), text)
        return
    tones = dict(words)
    for place, bit in enumerate(ACS_BITS):
        x = columns.acs + SLOT * place
        if bit not in tones:
            _text(parent, x + 4, y + 4.5, "\N{MIDDLE DOT}", _FAINT)
            continue
        on = tones[bit] is Tone.ON
        _text(parent, x, y + 4.5, bit, _TONES[tones[bit]], font_weight="bold" if on else "normal")


def _chip(
    parent: Tree.Element, x: float, y: float, text: str, fill: str, edge: str
) -> Tree.Element:
    chip = Tree.SubElement(parent, "g")
    width = max(34, LETTER * len(text) + 14)
    _box(chip, x, y - 9, width, 18, fill, rx="9", stroke=edge, stroke_width="1")
    _text(chip, x + width / 2, y + 4.5, text, font_size="12", text_anchor="middle")
    return chip


def _tip(element: Tree.Element, text: str) -> None:
    """Add what a browser shows when the pointer rests on *element*."""
    if text:
        tip = Tree.Element("title")
        tip.text = _clean(text)
        element.insert(0, tip)
        if element.text:  # a text element: its words come after the tip
            tip.tail, element.text = element.text, None


def _tree_lines(root: Tree.Element, rows: tuple[Row, ...]) -> None:
    """Draw from each port down to what is below it."""
    last: dict[int, int] = {}
    for place, row in enumerate(rows):
        depth = len(row.lines) - 1
        parent, brother = last.get(depth - 1, 0), last.get(depth, 0)
        last[depth] = place
        if depth == 0:
            continue
        x = MARGIN + STEP * (depth - 1) + 6
        above = _y(brother) if brother > parent else _y(parent) + 6
        y = _y(place)
        _line(root, f"M{x:.1f} {above:.1f}V{y:.1f}H{x + STEP - 6:.1f}", "#98a2b3")


# -- leaks ---------------------------------------------------------------------------------------


def _places(picture: Picture, rows: tuple[Row, ...]) -> dict[Bdf, int]:
    """Return the row that shows each function."""
    found: dict[Bdf, int] = {}
    every = iter(picture.rows)
    for place, row in enumerate(rows):
        for _ in range(row.alike + 1):
            found[next(every).device.bdf] = place
    return found


def _arcs(
    root: Tree.Element, picture: Picture, rows: tuple[Row, ...], columns: _Columns
) -> None:
    places = _places(picture, rows)
    for number, leak in enumerate(picture.overview.leaks[:MAX_ARCS]):
        if leak.edge.target is None:
            continue
        start, end = _y(places[leak.edge.source]), _y(places[leak.edge.target])
        if start == end:
            start, end = start - 5, end + 5
        _arc(root, columns.arcs - 36, columns.arcs + 26 * number + 14, (start, end), number + 1)


def _arc(
    root: Tree.Element, x: float, lane: float, ends: tuple[float, float], number: int
) -> None:
    """Draw one leak: out to its lane, along it and back with an arrow head."""
    start, end = ends
    turn = 8 if end > start else -8
    path = (
        f"M{x:.1f} {start:.1f}H{lane - 8:.1f}Q{lane:.1f} {start:.1f} {lane:.1f} {start + turn:.1f}"
        f"V{end - turn:.1f}Q{lane:.1f} {end:.1f} {lane - 8:.1f} {end:.1f}H{x + 7:.1f}"
    )
    if abs(end - start) < 16:
        path = f"M{x:.1f} {start:.1f}H{lane:.1f}V{end:.1f}H{x + 7:.1f}"
    _line(root, path, _RED, stroke_width="1.5")
    head = f"M{x:.1f} {end:.1f}l9 -4.5v9z"
    Tree.SubElement(root, "path", {"d": head, "fill": _RED})
    middle = (start + end) / 2
    _box(root, lane - 8, middle - 8, 16, 16, "#ffffff", rx="8", stroke=_RED)
    _text(root, lane, middle + 4, str(number), _RED, font_size="11", text_anchor="middle")


def _notes(picture: Picture, room: int) -> list[tuple[str, str]]:
    """Return the lines under the tree: each leak in words, wrapped to *room* characters."""
    leaks = picture.overview.leaks
    if not leaks:
        return [("No component is larger than the groups inside: no group leaks.", _TONES[Tone.ON])]
    found = [(f"{_counted(len(leaks))} larger than the groups inside: these groups leak.", _RED)]
    name = _namer(picture)
    for number, leak in enumerate(leaks[:MAX_ARCS], 1):
        lines = wrap(f"{number}  {_told(leak, name)}", room, subsequent_indent="   ")
        found.extend((line, _INK) for line in lines)
    if len(leaks) > MAX_ARCS:
        found.append((f"and {len(leaks) - MAX_ARCS} more: dmaproof reach", _INK))
    return found


def _counted(number: int) -> str:
    return "1 component is" if number == 1 else f"{number} components are"


def _namer(picture: Picture) -> Callable[[Bdf], str]:
    def name(bdf: Bdf) -> str:
        return str(picture.machine.device(bdf))

    return name


def _told(leak: Leak, name: Callable[[Bdf], str]) -> str:
    edge = leak.edge
    goal = name(edge.target) if edge.target else "no function"
    ways = " or ".join(
        ", ".join(f"{cut.bits}{'' if cut.on else ' off'} at {name(cut.port)}" for cut in way)
        for way in edge.ways_to_cut
    )
    cut = f"cut by {ways}" if ways else "no ACS bit cuts it"
    return f"{edge.channel} ({edge.channel.leak}) from {name(edge.source)} to {goal}: " \
        f"{edge.reason}; {cut}"

"""Text that contains lspci output, cut into one record a function.

People post such text in mails, bug reports and logs: quoted, wrapped, with time stamps, colours and
sentences between, several listings in one file. What belongs to no function is skipped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.configspace import FULL
from dmaproof.model.pcie.lspci_tree import is_drawn
from dmaproof.model.pcie.topology import Bdf

TAKE_AGAIN = "record it again as root: lspci -xxxx > machine.txt"
MAX_LISTINGS = 64

_ADDRESS = r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([01][0-9a-fA-F])\.([0-7])"
_STEP = r"(?:(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:)?[01][0-9a-fA-F]\.[0-7]"
_HEADLINE = re.compile(rf"[ \t]*((?:{_STEP}/){{0,32}})(?:{_ADDRESS})(?=\s|$)")
_ANYWHERE = re.compile(rf"(?<![\w.]){_ADDRESS}(?=\s|$)", re.MULTILINE)
_UNSEEN = re.compile(
    rf"(?<![\w.]){_ADDRESS}\s+[A-Z][^:\[\]]{{0,60}}\[[0-9a-f]{{4}}\]: "
    r".*\[[0-9a-f]{4}:[0-9a-f]{4}\]"
)
"""What only a headline of ``lspci -nn`` looks like, wherever on a line it stands."""
_NO_ADDRESS = re.compile(
    r"[0-9a-fA-F]{4,8}:(?:[0-9a-fA-F]{3,8}:[0-9a-fA-F]{2}\.[0-9a-fA-F]|[0-9a-fA-F]{2}:"
    r"(?:[2-9a-fA-F][0-9a-fA-F]\.[0-9a-fA-F]|[01][0-9a-fA-F]\.[89a-fA-F]))\s+\S"
)
_SHORT_PATH = re.compile(rf"[ \t]*{_ADDRESS}(?:/[01][0-9a-fA-F]\.[0-7])+\s")
_HEX_LINE = re.compile(r"[ \t]*([0-9a-fA-F]{2,3}):((?: [0-9a-fA-F]{2}){16})\s*")
_HEX_START = re.compile(r"[0-9a-fA-F]{2,3}: (?:[0-9a-fA-F]{1,2}(?:\s|$))")
_CLASS = re.compile(r"\s*(?:$|[\"(A-Z0-9])")
_CLASS_AND_NAME = re.compile(r"\s+(?:[A-Z0-9][^:]{0,60}|[0-9a-fA-F]{4}): ")

SNIPPED = re.compile(
    r"[\[<(]?(?:\.{3,}|\u2026|snip(?:ped)?|cut|truncated|skipped|-*8<-*|-*>8-*)[\])>]?",
    re.IGNORECASE,
)
"""A line that somebody put in place of others."""
_GROUP_TITLE = re.compile(
    r"(?:IOMMU group |\s*(?:/\S*)?IOMMU Group )(?P<alone>\d{1,9}):?\s*$|"
    r"\s*(?:/\S*)?(?:IOMMU )?[Gg]roup:?\s+(?P<before>\d{1,9}):?\s+"
    rf"(?={_HEADLINE.pattern})"
)
"""What the usual loop over /sys/kernel/iommu_groups prints before the functions of a group."""
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_SLOT = re.compile(rf"^Slot:\s*{_ADDRESS}[ \t]*\n(?:[A-Za-z]+:[^\n]*\n?)*", re.MULTILINE)
_TOOL_MESSAGE = re.compile(
    r"^([0-9a-f]{2,3}:(?: [0-9a-f]{2}){1,15}) ?pcilib: [^\n]*\n ?((?:[0-9a-f]{2} ?){1,15})$",
    re.MULTILINE,
)
"""An error message in the middle of a hex line, whose rest follows on the next."""
_QUOTE = re.compile(r"(?:>(?:[ ]|$|(?=[\t>])))+")
_STAMP = re.compile(
    r"(?:<\d+>)?\[\s*\d+\.\d+\] |"
    r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ \S+: (?:\[\s*\d+\.\d+\] )?|"
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S* (?:\S+ \S+: )?"
)


@dataclass
class Record:
    """One function of one listing, as text.

    Attributes:
        bdf: its address.
        line: number of its headline, from 1.
        path: addresses of the ports above, outermost first, as ``lspci -PP`` prints them.
        data: configuration space, as far as hex lines show it.
        text: the headline from the class on, and all that follows, wrapped lines joined.
        lines: the same, line by line, without indentation.
        ended: something came after it, a blank line or another record: it is not cut short.

    """

    bdf: Bdf
    line: int
    path: tuple[str, ...] = ()
    data: bytearray = field(default_factory=bytearray)
    lines: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def text(self) -> str:
        """All lines joined by single spaces."""
        return " ".join(" ".join(self.lines).split())

    def append(self, offset: int, values: bytes, where: str) -> None:
        """Add 16 bytes of configuration space.

        Raises:
            InputError: they do not follow what is there.

        """
        if offset % 16 or offset >= FULL or offset < len(self.data):
            raise InputError(
                f"hex line at offset {offset:x} of {self.bdf} is out of order",
                where,
                "lines of two functions are mixed, or the dump was edited",
                TAKE_AGAIN,
            )
        if offset > len(self.data):
            raise InputError(
                f"hex line at offset {len(self.data):x} of {self.bdf} is missing",
                where,
                "lines got lost, or the dump was edited",
                TAKE_AGAIN,
            )
        self.data.extend(values)


Listing = dict[Bdf, Record]


@dataclass(frozen=True)
class Cut:
    """What was found in a text.

    Attributes:
        listings: at least one; a new one starts where a function comes again.
        drawn: lines of trees drawn by ``lspci -t``.
        unseen: numbers of lines that hold a headline, but not where one begins.
        snipped: numbers of lines that stand for something left out.

    """

    listings: list[Listing]
    drawn: list[str]
    unseen: list[int] = field(default_factory=list)
    snipped: list[int] = field(default_factory=list)


def clean(text: str) -> str:
    """Return *text* without marks of byte order, colours, carriage returns and hard spaces."""
    if "\ufeff" in text:
        text = text.replace("\ufeff", "")
    if "\x1b" in text:
        text = _COLOUR.sub("", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\xa0" in text:
        text = text.replace("\xa0", " ")
    if "&lt;" in text:
        text = html.unescape(text)
    if "pcilib: " in text:
        text = _TOOL_MESSAGE.sub(r"\1 \2", text)
    if "Slot:" in text:
        text = _SLOT.sub(_from_fields, text)
    return text


def _from_fields(found: re.Match[str]) -> str:
    """Write a record of ``lspci -vmm`` as plain lspci does."""
    fields: dict[str, str] = {}
    for line in found[0].splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    ids = [re.search(r"\[?([0-9a-f]{4})\]?$", fields.get(key, "")) for key in ("Vendor", "Device")]
    pair = f" [{ids[0][1]}:{ids[1][1]}]" if ids[0] and ids[1] else ""
    name = f"{fields.get('Vendor', '')} {fields.get('Device', '')}{pair}"
    lines = [f"{fields.get('Slot', '')} {fields.get('Class', '')}: {name}"]
    if "IOMMUGroup" in fields:
        lines.append(f"\tIOMMU group: {fields['IOMMUGroup']}")
    return "\n".join(lines) + "\n"


def cut(text: str, where: str) -> Cut:
    """Return the listings in *text*.

    Raises:
        InputError: no function at all, a hex line that is damaged or out of place, or more than
            `MAX_LISTINGS` listings.

    """
    text = clean(text)
    if _ANYWHERE.search(text) is None:
        raise InputError(
            "no PCI function found" if text.strip() else "the file is empty",
            where,
            "this is not the output of lspci",
            TAKE_AGAIN,
        )
    cutter = _Cutter(where)
    found = cutter.cut(text)
    if not found:
        raise InputError("no PCI function found", where, "this is no output of lspci", TAKE_AGAIN)
    return Cut(found, cutter.drawn, cutter.unseen, cutter.snipped)


def _bare(line: str) -> str:
    """Take quotation marks, time stamps and marks of scripts off the front of a line."""
    if line[:1] == ">" and (quoted := _QUOTE.match(line)) is not None:
        line = line[quoted.end() :]
    if line.startswith("[RESET]"):
        return line[len("[RESET]") :]
    if line[:1] in "[<" or line[:1].isalnum():
        stamp = _STAMP.match(line)
        if stamp is not None:
            line = line[stamp.end() :]
    return line


class _Cutter:
    """Walks through the lines once."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[Listing] = []
        self.drawn: list[str] = []
        self.unseen: list[int] = []
        self.snipped: list[int] = []
        self.group = ""
        self.current: Record | None = None
        self.closed = False
        """A blank line came: what follows without indentation may be no part of the record."""

    def cut(self, text: str) -> list[Listing]:
        for number, raw in enumerate(text.splitlines(), 1):
            hexes = _HEX_LINE.fullmatch(raw)
            line = raw
            if hexes is None and raw[:1] not in {"\t", " "}:
                line = _bare(raw)
                hexes = _HEX_LINE.fullmatch(line) if line is not raw else None
            if hexes is not None:
                self._bytes(hexes, number)
            elif line:
                self._words(line, number)
            else:
                self._close()
        return self.found

    def _close(self) -> None:
        self.closed = True
        if self.current is not None:
            self.current.ended = True

    def _bytes(self, match: re.Match[str], number: int) -> None:
        if self.current is None:
            raise _damaged("a hex line before the first function", self.where, number)
        values = bytes.fromhex(match[2])
        self.current.append(int(match[1], 16), values, f"{self.where}:{number}")

    def _words(self, line: str, number: int) -> None:
        title = _GROUP_TITLE.match(line)
        if title is not None:
            self.group, line = title["alone"] or title["before"], line[title.end() :]
            if not line:
                return
        elif line[0] not in " \t":
            self.group = ""
        head = _HEADLINE.match(line)
        if head is not None and _is_headline(line, head.end()):
            self._start(head, line[head.end() :], number)
            return
        if SNIPPED.fullmatch(line.strip()) is not None:
            self.snipped.append(number)
        if _UNSEEN.search(line) is not None:
            self.unseen.append(number)
        if is_drawn(line):
            self.drawn.append(line)
        elif self.current is None:
            return
        elif _NO_ADDRESS.match(line):
            raise InputError(
                f"{line.split()[0][:30]} is no PCI address",
                f"{self.where}:{number}",
                "bus above ff or device above 1f: the dump was edited",
                TAKE_AGAIN,
            )
        elif _SHORT_PATH.match(line):
            raise InputError(
                "a path without bus numbers",
                f"{self.where}:{number}",
                "lspci ran with -P",
                "use -PP, or neither",
            )
        elif _HEX_START.match(line):
            raise _damaged(f"hex line of {self.current.bdf} is cut or damaged", self.where, number)
        elif line[0] in " \t":
            if stripped := line.strip():
                self.current.lines.append(stripped)
            else:
                self._close()
        elif not self.closed:
            self.current.lines.append(line.rstrip())

    def _start(self, head: re.Match[str], rest: str, number: int) -> None:
        domain, bus, device, function = head.groups(default="0")[1:]
        bdf = Bdf(int(domain, 16), int(bus, 16), int(device, 16), int(function, 16))
        if not self.found or bdf in self.found[-1]:
            if len(self.found) == MAX_LISTINGS:
                raise InputError(
                    f"{bdf} comes again and again",
                    f"{self.where}:{number}",
                    f"more than {MAX_LISTINGS} listings, or no lspci output at all",
                    "keep one listing of one machine",
                )
            self.found.append({})
        path = tuple(step for step in head[1].split("/") if step)
        self._close()
        self.current = Record(bdf, number, path, lines=[rest.strip()] if rest.strip() else [])
        if self.group:
            self.current.lines.append(f"IOMMU group: {self.group}")
        self.found[-1][bdf] = self.current
        self.closed = False


def _is_headline(line: str, end: int) -> bool:
    """Whether a line that begins with an address is a headline, not a sentence or a table."""
    if line[0] in " \t":
        return _CLASS_AND_NAME.match(line, end) is not None
    return _CLASS.match(line, end) is not None


def _damaged(what: str, where: str, number: int) -> InputError:
    return InputError(what, f"{where}:{number}", "the dump is truncated or was edited", TAKE_AGAIN)


_ADDED = re.compile(
    r"(?:pci |iommu: Adding device )(?P<bdf>[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])"
    r"(?:: Adding to iommu group| to group) (?P<group>\d+)"
)
_LINKED = re.compile(
    r"iommu_groups/(?P<group>\d+)/devices/(?P<bdf>[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])"
)
"""A line of ``find /sys/kernel/iommu_groups``."""
_REMOVED = re.compile(
    r"(?:pci |iommu: Removing device )(?P<bdf>[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])"
    r"(?:: Removing from iommu group| from group) (?P<group>\d+)"
)


@dataclass
class KernelLog:
    """What a kernel log says about groups.

    Attributes:
        groups: group number of each function at the end of the first boot.
        removed: functions that left a group during that boot.
        boots: how often the groups were made; only the first boot counts.

    """

    groups: dict[Bdf, int]
    removed: set[Bdf]
    boots: int


def kernel_log(text: str) -> KernelLog:
    """Return the groups that kernel messages in *text* tell of."""
    log = KernelLog({}, set(), 0)
    if "group" not in text:
        return log
    seen: set[Bdf] = set()
    for verb, bdf, group in _events(text):
        if verb == "removed":
            if log.boots <= 1:
                log.removed.add(bdf)
                log.groups.pop(bdf, None)
            seen.discard(bdf)
            continue
        if not seen or bdf in seen:
            log.boots += 1
            seen = set()
        seen.add(bdf)
        if log.boots == 1:
            log.groups[bdf] = group
    return log


def _events(text: str) -> Iterator[tuple[str, Bdf, int]]:
    for line in clean(text).splitlines():
        if "group" not in line:
            continue
        patterns = (("added", _ADDED), ("removed", _REMOVED), ("added", _LINKED))
        for verb, pattern in patterns:
            found = pattern.search(line)
            if found is not None and len(found["group"]) < 10:
                yield verb, Bdf.parse(found["bdf"]), int(found["group"])

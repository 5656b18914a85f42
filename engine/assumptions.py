"""Named assumptions about disputed or device-dependent facts.

Every assumption has a *permissive* value: the one that lets more happen. A claim that survives all
permissive values holds for both values of every free assumption, since leak edges only grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dmaproof.model.errors import InputError


@dataclass(frozen=True)
class Assumption:
    """One assumption.

    Attributes:
        permissive: the value that lets more happen.
        default: "on", "off" or "free".
        says: its meaning when it is on.
    """

    name: str
    permissive: bool
    default: str
    says: str


ASSUMPTIONS = MappingProxyType({
    a.name: a
    for a in (
        Assumption("deputy", True, "free",
                   "a function does work for whoever writes its BAR"),
        Assumption("spoof", True, "free",
                   "a function may put another's requester id into its requests"),
        Assumption("mfd_rid_honest", False, "on",
                   "multifunction and SR-IOV silicon never emits a sibling's requester id"),
        Assumption("mf_loopback", True, "free",
                   "a multifunction device without ACS capability loops back inside"),
        Assumption("rp_loopback", True, "free",
                   "a root port without ACS capability sends requests back down"),
        Assumption("rc_p2p", True, "off",
                   "the root complex forwards between root ports"),
        Assumption("ats_honest", False, "free",
                   "translated requests carry only addresses that the IOMMU has returned"),
        Assumption("closed_grouping", False, "free",
                   "every leak channel stays inside one group"),
        Assumption("static_fabric", False, "on", "no function is hot-added"),
    )
})
"""All assumptions, in the order in which they are printed."""

FABRIC = ("deputy", "spoof", "mfd_rid_honest", "mf_loopback", "rp_loopback", "rc_p2p")
"""Those that the fabric's edges depend on."""


@dataclass(frozen=True)
class Assumptions:
    """A value for every assumption: "on", "off" or "free"."""

    values: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, changed: Mapping[str, str] | None = None) -> Assumptions:
        """The defaults with some values changed.

        Raises:
            InputError: an unknown name or value.
        """
        values = {a.name: a.default for a in ASSUMPTIONS.values()}
        for name, value in (changed or {}).items():
            if name not in values:
                raise InputError(f"no assumption is called {name!r}", "--assume", "a typing error",
                                 f"known: {', '.join(values)}")
            if value not in ("on", "off", "free"):
                raise InputError(f"{name} cannot be {value!r}", "--assume", "a typing error",
                                 "write on, off or free")
            values[name] = value
        return cls(tuple(values.items()))

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Assumptions:
        """Read ``NAME=VALUE`` texts, as given to ``--assume``.

        Raises:
            InputError: not of that form, unknown, or one name with two values.
        """
        changed: dict[str, str] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals:
                raise InputError(f"{text!r} is not of the form NAME=VALUE", "--assume", "",
                                 "write for example --assume spoof=off")
            if changed.setdefault(name, value) != value:
                raise InputError(f"{name} is given two values", "--assume",
                                 "a repeated option", "give it once")
        return cls.of(changed)

    def value(self, name: str) -> str:
        """The value of one assumption."""
        return dict(self.values)[name]

    def effective(self, name: str) -> bool:
        """The value that is used: free means permissive."""
        value = self.value(name)
        return ASSUMPTIONS[name].permissive if value == "free" else value == "on"

    def fabric(self) -> dict[str, bool]:
        """What the fabric's edges are computed with."""
        return {name: self.effective(name) for name in FABRIC}

    def restrictive(self) -> list[str]:
        """Names whose value in use forbids something."""
        return [n for n in ASSUMPTIONS if self.effective(n) != ASSUMPTIONS[n].permissive]

    def permitting(self, name: str) -> Assumptions:
        """The same with one assumption at its permissive value."""
        value = "on" if ASSUMPTIONS[name].permissive else "off"
        return Assumptions(tuple((n, value if n == name else v) for n, v in self.values))

    def literals(self, names: Iterable[str]) -> dict[str, str]:
        """Names with the value in use, in the printed order."""
        wanted = set(names)
        return {n: "on" if self.effective(n) else "off" for n in ASSUMPTIONS if n in wanted}

"""From a design to its transition system."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from dmaproof.model.design import Design, Payload
from dmaproof.model.logic.system import Module, System, compose
from dmaproof.model.logic.terms import Eq, Formula, Rel, Term, and_, forall, implies, not_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.bind import Binder
from dmaproof.model.vfio.container import LIFECYCLE, Containers, device_files, hot_add, lifecycle
from dmaproof.model.vfio.scheme import Scheme
from dmaproof.model.vfio.type1 import Mapper
from dmaproof.model.vtd.cache_rules import caches


@dataclass(frozen=True)
class Model:
    """A design as a transition system, with the words its properties need.

    Attributes:
        design: the design.
        scheme: object, members, tables and caches.
        system: everything.
        binder: the bind calls (None for type1).
        mapper: MAP and UNMAP (type1 only).
        containers: joining and leaving (None without containers).
    """

    design: Design
    scheme: Scheme
    system: System
    binder: Binder | None
    mapper: Mapper | None
    containers: Containers | None

    @cached_property
    def core(self) -> System:
        """The system without the rules that only refuse; it allows every run of `system`."""
        dropped = frozenset(r for r in LIFECYCLE if r in self.system.rels)
        return self.system.without_relations(dropped)

    def in_progress(self, container: Term) -> Formula:
        """A call that holds the container's lock is running."""
        assert self.containers is not None
        return self.containers.in_progress(container)

    def rel(self, name: str) -> Rel:
        """A relation of the system by name.

        Raises:
            KeyError: there is none.
        """
        return self.system.rel(name)


def _facts(scheme: Scheme) -> Module:
    """What holds of every machine: a requester id belongs to one function."""
    ghosts = (v.GRANTED, v.GGRANT, *((v.CGRANT,) if scheme.containers else ()))
    statics = (v.P2P, v.INFLUENCE, v.EMITS, v.CAPABLE, v.PATH_OK, v.PORTED, v.ALONE, v.FITS, v.RAW)
    unique = forall((v.F1, v.H1), implies(Eq(v.rid(v.F1), v.rid(v.H1)), Eq(v.F1, v.H1)))
    one_group = and_(v.ALONE(v.group(v.F1)), Eq(v.group(v.F1), v.group(v.H1)))
    return Module(
        "facts",
        fns=(v.RID_OF, v.RGROUP, v.NO_PASID.fn),
        rels=(*statics, *ghosts),
        axioms={
            "one-rid-one-function": unique,
            "group-of-one": forall((v.F1, v.H1), implies(one_group, Eq(v.F1, v.H1))),
            "group-of-one-has-no-port": forall(
                (v.G1,), implies(v.ALONE(v.G1), not_(v.PORTED(v.G1)))
            ),
        },
    )


@lru_cache(maxsize=256)
def build(design: Design, hot_add_allowed: bool = False) -> Model:
    """Turn a design into a transition system.

    Args:
        design: the design.
        hot_add_allowed: functions may appear at run time (assumption static_fabric off).
    """
    scheme = Scheme(design, hot_add_allowed)
    modules = [_facts(scheme)]
    binder: Binder | None = None
    mapper: Mapper | None = None
    containers: Containers | None = None
    if scheme.containers and scheme.payload is not Payload.MAP:
        modules.append(device_files(scheme))  # its guards come first in the kernel, too
    if scheme.payload is Payload.MAP:
        mapper = Mapper(scheme)
        modules.append(mapper.module())
    else:
        binder = Binder(scheme)
        modules.append(binder.module())
    if scheme.containers:
        containers = Containers(scheme, binder)
        modules += [containers.module(), lifecycle(scheme, containers)]
    modules.append(caches(scheme))
    if hot_add_allowed:
        modules.append(hot_add())
    return Model(design, scheme, compose(design.name, *modules), binder, mapper, containers)



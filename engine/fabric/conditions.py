"""Conditions on machines under which a theorem over topologies is asked.

Each is a named sentence about the machine, with or without symbols. A proof says for which
conditions it holds; a condition that a machine can be checked for is no assumption about silicon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dmaproof.model.pcie.conditions import Cond, both, either, no
from dmaproof.model.pcie.topology import PortKind
from dmaproof.model.pcie.trees.local_rules import BRIDGES, FUNCTIONS
from dmaproof.model.pcie.trees.rules import BITS, Reading, implies

PORTS = (PortKind.ROOT_PORT, PortKind.DOWNSTREAM)
CONVENTIONAL = (
    PortKind.CONVENTIONAL,
    PortKind.CONVENTIONAL_BRIDGE,
    PortKind.PCIE_TO_PCI_BRIDGE,
    PortKind.PCI_TO_PCIE_BRIDGE,
)

Test = Callable[[Reading], Iterator[Cond]]


@dataclass(frozen=True)
class Condition:
    """A condition on machines.

    Attributes:
        name: how theorems and verdicts name it.
        says: what it says of a machine.
        test: yields conditions that hold together exactly where it does.

    """

    name: str
    says: str
    test: Test


CONDITIONS: dict[str, Condition] = {}


def _condition(name: str, says: str) -> Callable[[Test], Test]:
    def mark(test: Test) -> Test:
        CONDITIONS[name] = Condition(name, says, test)
        return test

    return mark


def holds(name: str, reading: Reading) -> Cond:
    """Return whether the condition *name* holds of a tree."""
    return both(*CONDITIONS[name].test(reading))


@_condition("sv-on", "Source Validation is in force at every root port and downstream port")
def _sv_on(reading: Reading) -> Iterator[Cond]:
    for node, facts in reading.tree.node.items():
        yield implies(facts.is_a(*PORTS), reading.in_force(node, "SV", 0))


@_condition("no-egress-control", "no port has Egress Control on")
def _no_egress_control(reading: Reading) -> Iterator[Cond]:
    for facts in reading.tree.node.values():
        yield no(both(facts.capability, facts.can["EC"], facts.on["EC"]))


@_condition(
    "quiet-sriov",
    "every function of a device with virtual functions has RR in force or no ACS capability",
)
def _quiet_sriov(reading: Reading) -> Iterator[Cond]:
    tree = reading.tree
    for (first, second), device in tree.same_device.items():
        virtual = either(tree.node[first].virtual, tree.node[second].virtual)
        for node in (first, second):
            quiet = either(no(tree.node[node].capability), tree.node[node].set("RR"))
            yield implies(both(device, virtual), quiet)


@_condition("no-virtual", "there are no virtual functions")
def _no_virtual(reading: Reading) -> Iterator[Cond]:
    for facts in reading.tree.node.values():
        yield no(facts.virtual)


@_condition(
    "no-virtual-in-switch", "no virtual function belongs to a device on the inner bus of a switch"
)
def _no_virtual_in_switch(reading: Reading) -> Iterator[Cond]:
    """PCIe Base 1.3.3 allows no endpoint there at all."""
    for node, facts in reading.tree.node.items():
        above = reading.shape.parent(node)
        if above:
            yield no(both(facts.virtual, reading.tree.node[above].is_a(PortKind.UPSTREAM)))


@_condition("no-shared-ghost", "no two functions use the requester id of one absent function")
def _no_shared_ghost(reading: Reading) -> Iterator[Cond]:
    for shared in reading.tree.same_ghost.values():
        yield no(shared)


@_condition("no-aliases", "no function uses another requester id by a quirk")
def _no_aliases(reading: Reading) -> Iterator[Cond]:
    for alias in reading.tree.alias.values():
        yield no(alias)
    for facts in reading.tree.node.values():
        yield no(facts.ghost)


@_condition(
    "no-function-beside-bridge",
    "no function shares its device with a bridge that has functions below",
)
def _no_function_beside_bridge(reading: Reading) -> Iterator[Cond]:
    for source, below in reading.pairs:
        branch = reading.shape.branch(below, reading.shape.parent(source))
        if branch is not None and branch != below:
            beside = reading.tree.device_of(source, branch)
            yield no(both(beside, reading.requesters(source, below)))


@_condition("one-function-devices", "every device has one function")
def _one_function_devices(reading: Reading) -> Iterator[Cond]:
    tree = reading.tree
    for device in tree.same_device.values():
        yield no(device)
    for facts in tree.node.values():
        yield no(facts.multifunction)


@_condition(
    "true-multifunction", "the multifunction bit is set where a device has several functions only"
)
def _true_multifunction(reading: Reading) -> Iterator[Cond]:
    tree = reading.tree
    for node, facts in tree.node.items():
        mates = (
            both(tree.device_of(node, mate), no(tree.node[mate].virtual))
            for mate in reading.shape.siblings(node)
        )
        yield implies(facts.multifunction, either(*mates))


@_condition("no-conventional", "everything is PCI Express")
def _no_conventional(reading: Reading) -> Iterator[Cond]:
    for facts in reading.tree.node.values():
        yield no(facts.is_a(*CONVENTIONAL))


@_condition("root-ports-isolate", "every root port isolates")
def _root_ports_isolate(reading: Reading) -> Iterator[Cond]:
    for node, facts in reading.tree.node.items():
        yield implies(facts.is_a(PortKind.ROOT_PORT), reading.enabled(node))


@_condition("switches-of-ports", "the inner bus of a switch has downstream ports only")
def _switches_of_ports(reading: Reading) -> Iterator[Cond]:
    for node in reading.shape.nodes:
        above = reading.shape.parent(node)
        if above:
            inner = reading.tree.node[above].is_a(PortKind.UPSTREAM)
            yield implies(inner, reading.tree.node[node].is_a(PortKind.DOWNSTREAM))


@_condition("lax-switches", "no downstream port isolates")
def _lax_switches(reading: Reading) -> Iterator[Cond]:
    for node, facts in reading.tree.node.items():
        yield implies(facts.is_a(PortKind.DOWNSTREAM), no(reading.enabled(node)))


@_condition("silent-functions", "no function of a multifunction device has an ACS capability")
def _silent_functions(reading: Reading) -> Iterator[Cond]:
    for facts in reading.tree.node.values():
        yield implies(both(facts.is_a(*FUNCTIONS), facts.multifunction), no(facts.capability))


@_condition(
    "capability",
    "root ports, and PCIe functions of multifunction devices, have an ACS capability; "
    "nothing is conventional",
)
def _capability(reading: Reading) -> Iterator[Cond]:
    for facts in reading.tree.node.values():
        asked = either(facts.is_a(PortKind.ROOT_PORT), facts.multifunction)
        yield implies(asked, facts.capability)
    yield from _no_conventional(reading)


@_condition(
    "plain-ports",
    "root ports have all of ACS on or none; switches and endpoints have none; "
    "bridges have no memory of their own",
)
def _plain_ports(reading: Reading) -> Iterator[Cond]:
    """What QEMU's q35 can be built from (root ports by ``disable-acs``)."""
    for facts in reading.tree.node.values():
        full = both(*(both(facts.can[bit], facts.on[bit]) for bit in BITS), no(facts.can["EC"]))
        root = facts.is_a(PortKind.ROOT_PORT)
        yield implies(facts.capability, both(root, full))
        yield implies(facts.is_a(*BRIDGES), no(facts.own_memory))
        yield no(facts.enhanced)

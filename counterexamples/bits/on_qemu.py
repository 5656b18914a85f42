"""Replays a trace on the VT-d of a running QEMU, beside the bit-level engine.

Every quadword goes into the guest's memory in the order in which the engine's driver writes it,
every descriptor into the queue of QEMU's unit, whose head and wait status must follow; what fills a
cache is a DMA, and so is the request at the end. Its landing address, or fault code, must be that
of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dmaproof.counterexamples.bits.gamma import Args, Gamma
from dmaproof.counterexamples.bits.landing import Issued, NotReproduced, Seen
from dmaproof.counterexamples.bits.memory import QUEUES, SPACES, TABLES, Written
from dmaproof.counterexamples.bits.places import OFFSET
from dmaproof.counterexamples.bits.qemu import BINARY, NotStarted, Qemu
from dmaproof.counterexamples.bits.replay import Nobody, Replay, replay_on_bits
from dmaproof.counterexamples.bits.unit import Tables, Unit
from dmaproof.counterexamples.trace import Trace, model_of
from dmaproof.model.algebra import PAGE
from dmaproof.model.design import Payload
from dmaproof.model.errors import InputError
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vtd import faults
from dmaproof.model.vtd.registers import Registers

PAGES: Final = range(SPACES, SPACES + 64 * PAGE)
_QUEUE_ERROR: Final = 1 << 4
_FILLS: Final = ("iotlb.fill", "pasid-cache.fill")
_BY_REQUEST: Final = ("device-isolation", "group-isolation", "container-isolation")
_SPARE: Final = 1 << 20  # room for the tables that the steps add


def obstacle(trace: Trace) -> str:
    """Return why QEMU 7.2 cannot express a trace; "" if it can.

    Raises:
        InputError: the trace contradicts itself.
    """
    model = model_of(trace)
    if model.scheme.payload is not Payload.MAP:
        return "its requests carry a PASID, and no device of QEMU 7.2 sends one"
    actions = {step.action for step in trace.steps}
    if any(a.startswith("device-tlb.") for a in actions):
        return "the devices that QEMU 7.2 lets a test drive have no device TLB"
    if "r1" not in trace.violation.objects and trace.property in _BY_REQUEST:
        return "its request is a translated one, and no device of QEMU 7.2 sends any"
    if any(a.endswith(".evict") for a in actions):
        return "QEMU evicts nothing when it is told to"
    if trace.property in ("no-misroute", "can-p2p-and-pasid"):
        return "QEMU routes no request from device to device"
    return ""


class _Senders(Nobody):
    """Notes who sends something in the course of a replay."""

    def __init__(self) -> None:
        self.wires: dict[Bdf, None] = {}

    def stepped(self, gamma: Gamma, action: str, args: Args, stutter: str) -> None:
        """Note who a fill is for."""
        if action in _FILLS:
            self.wires.update(dict.fromkeys(gamma.host.wires(args["r"])))

    def ended(self, gamma: Gamma, seen: Seen) -> None:
        """Note who sends the requests of the end."""
        self.wires.update(dict.fromkeys(issued.wire for issued in seen.requests))


def requesters(trace: Trace, machine: str | None = None) -> tuple[Bdf, ...]:
    """Return the requester ids under which something is sent in a trace.

    Raises:
        InputError: the trace contradicts itself, or its machine is missing.
    """
    senders = _Senders()
    replay_on_bits(trace, machine, None, senders)
    return tuple(sorted(senders.wires))


@contextmanager
def started(trace: Trace, tables: Tables, machine: str | None = None) -> Iterator[Qemu]:
    """Start a QEMU with a device at every requester id of a trace.

    Raises:
        NotReproduced: the ids cannot be placed.
        NotStarted: QEMU is missing or does not start.
        InputError: the trace contradicts itself, or its machine is missing.
    """
    wires = requesters(trace, machine)
    if any(wire.domain for wire in wires):
        raise NotReproduced("QEMU's machine has one PCI segment")
    ats = model_of(trace).design.fabric.ats
    try:
        qemu = Qemu(
            tables is Tables.SCALABLE,
            ",device-iotlb=on" if ats else "",
            [wire.rid for wire in wires],
        )
    except ValueError as error:
        raise NotReproduced(str(error)) from None
    with qemu:
        yield qemu


class Beside:
    """Does to QEMU's unit what is done to the engine's, and compares.

    Attributes:
        compared: requests at the end whose outcome was the same.
    """

    def __init__(self, qemu: Qemu) -> None:
        self._qemu = qemu
        self._passed = 0
        self._gamma: Gamma | None = None
        self.compared: list[Issued] = []

    def registers(self, tables: Tables, root: int) -> Registers:
        """Return the capabilities that QEMU's unit reports."""
        mode = 1 << 10 if tables is Tables.SCALABLE else 0
        return Registers(self._qemu.cap, self._qemu.ecap, root | mode)

    def booted(self, gamma: Gamma) -> None:
        """Load the tables, the root pointer and the queue."""
        self._gamma = gamma
        (unit,) = gamma.host.units.values()
        self._qemu.load({}, range(TABLES, max(gamma.host.frames.named) + _SPARE))
        self._qemu.load(gamma.host.memory.words, range(QUEUES, QUEUES + 16 * PAGE))
        self._qemu.set_root(unit.hardware.registers.rtaddr)
        self._qemu.set_queue(unit.queue.iqa)
        unit.listener = self
        self._passed = 0

    def _pass_on(self, *, skip: int = -1) -> None:
        """Write what the engine's memory has noted; the status word is QEMU's own to write."""
        assert self._gamma is not None
        log = self._gamma.host.memory.log
        for event in log[self._passed :]:
            if isinstance(event, Written) and event.address != skip:
                self._qemu.store(event.address, event.new)
        self._passed = len(log)

    def before(self, unit: Unit) -> None:
        """Write what comes before the descriptors."""
        self._pass_on()

    def after(self, unit: Unit, status: int, serial: int) -> None:
        """Write the descriptors, ring the doorbell, and see the wait done.

        Raises:
            NotReproduced: the queue stops, or the wait's status does not arrive.
        """
        self._pass_on(skip=status)
        head, faulted = self._qemu.ring(unit.queue.tail)
        seen = int.from_bytes(self._qemu.ram[status : status + 4], "little")
        if head != unit.queue.tail or faulted & _QUEUE_ERROR or seen != serial:
            raise NotReproduced(
                f"QEMU's queue stands at {head:#x} of {unit.queue.tail:#x}, status {seen},"
                f" fault status {faulted:#x}"
            )

    def stepped(self, gamma: Gamma, action: str, args: Args, stutter: str) -> None:
        """Write what is left of a step; a fill is a DMA.

        Raises:
            NotReproduced: the DMA lands elsewhere.
        """
        self._pass_on()
        self._passed = 0  # the journal is emptied after every step
        if action in _FILLS and not stutter:
            places = gamma.places
            for wire in gamma.host.wires(args["r"]):
                address = places.address(args["s"]) + OFFSET
                seen = self._qemu.dma(address, PAGES, flush=False, requester=wire.rid)
                if seen.hpa != places.page(args["s"]) + OFFSET:
                    raise NotReproduced(f"QEMU: a DMA of {wire} does not land where it should")

    def ended(self, gamma: Gamma, seen: Seen) -> None:
        """Issue the requests of the end.

        Raises:
            NotReproduced: one of them ends otherwise, or there is none.
        """
        for issued in seen.requests:
            q = issued.request
            found = self._qemu.dma(
                int(q.address), PAGES, write=bool(q.write), flush=False, requester=issued.wire.rid
            )
            code = _code(issued)
            told = found.code
            if gamma.host.tables is Tables.SCALABLE and code is not None and told is not None:
                told = code  # QEMU 7.2 records the codes of legacy mode there
            if (found.hpa, told) != (issued.hpa, code):
                raise NotReproduced(
                    f"QEMU: the request of {issued.wire} for {int(q.address):#x} has outcome"
                    f" {_said(found.hpa, found.code)}, not {_said(issued.hpa, code)}"
                )
            self.compared.append(issued)
        if not self.compared:
            raise NotReproduced("the end shows no request that QEMU could be asked")


def _code(issued: Issued) -> int | None:
    if not issued.condition:
        return None
    return faults.CONDITIONS[faults.number_of(issued.condition)].code


def _said(hpa: int | None, code: int | None) -> str:
    if code is not None:
        return f"fault {code:#x}"
    return "nowhere" if hpa is None else f"{hpa:#x}"


@dataclass(frozen=True)
class OnQemu:
    """What QEMU said.

    Attributes:
        reason: why the trace is not reproduced there; "" if it is.
        version: of QEMU ("" if it was not started).
        compared: requests whose outcome was the engine's.
    """

    reason: str
    version: str = ""
    compared: tuple[Issued, ...] = ()


def beside_qemu(
    trace: Trace, machine: str | None = None, tables: Tables | None = None
) -> tuple[Replay, OnQemu]:
    """Start a QEMU and replay a trace on it and on the engine; on the engine alone where it must.

    Raises:
        InputError: QEMU is missing or does not start, the trace contradicts itself, its machine is
            missing, or the table format does not fit the design.
    """
    if BINARY is None:
        raise _missing("qemu-system-x86_64 is not installed")
    problem = obstacle(trace)
    if problem:
        return replay_on_bits(trace, machine, tables), OnQemu(f"not expressible: {problem}")
    chosen = tables or Tables.LEGACY
    try:
        with started(trace, chosen, machine) as qemu:
            done, beside = replay_on_qemu(trace, qemu, machine, chosen)
            return done, OnQemu(done.reason, qemu.version(), tuple(beside.compared))
    except NotReproduced as error:
        return replay_on_bits(trace, machine, tables), OnQemu(f"not expressible: {error}")
    except NotStarted as error:
        raise _missing(str(error)) from None


def _missing(what: str) -> InputError:
    return InputError(
        what,
        "--qemu",
        "the emulator is not installed, or is another one than this was made for",
        "install qemu-system-x86 (Debian), or leave --qemu out",
    )


def replay_on_qemu(
    trace: Trace, qemu: Qemu, machine: str | None = None, tables: Tables = Tables.LEGACY
) -> tuple[Replay, Beside]:
    """Replay a trace on the engine and, beside it, on a running QEMU.

    Raises:
        InputError: the trace contradicts itself, or its machine is missing.
    """
    beside = Beside(qemu)
    return replay_on_bits(trace, machine, tables, beside), beside

"""The user interface of the bind calls: bytes, argument rules in order, claim C11."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmaproof.model.algebra import SymbolicMemory, Term, Truth
from dmaproof.model.errors import InputError
from dmaproof.model.rules import all_rules
from dmaproof.model.vfio import uapi
from dmaproof.model.vfio.uapi import (
    BIND_RULES,
    DRIVER_RULES,
    VFIO_IOMMU_BIND_PASIDTBL,
    VFIO_IOMMU_BIND_PROCESS,
    ArgumentRule,
    BindCall,
    Host,
    Outcome,
    ProcessBind,
    TableConfig,
    check,
    check_bind,
    context_high,
    decode_bind,
    decode_config,
    encode_bind,
    encode_config,
    first_refusal,
)
from dmaproof.properties import arguments
from dmaproof.properties.arguments import ARGUMENTS, KERNEL_2018, Interface, claim_c11

U8, U32, U64 = (st.integers(0, (1 << w) - 1) for w in (8, 32, 64))
CONFIGS = st.builds(TableConfig, U32, U32, U64, U8)
NEAR = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 9, 19, 20, 21, 31, 32, 33, 1 << 31, (1 << 32) - 1])
CALLS = st.builds(
    BindCall, NEAR | U32, NEAR | U32,
    st.builds(TableConfig, NEAR, NEAR, U64, st.integers(0, 40)),
    st.builds(ProcessBind, NEAR, U32, st.integers(-(1 << 31), (1 << 31) - 1)),
)
FACTS = [n for n in Host.__annotations__ if n != "pasid_bits"]
HOSTS = st.builds(Host, st.integers(5, 20), **{n: st.booleans() for n in FACTS})
PROCESS = BindCall(argsz=20, flags=VFIO_IOMMU_BIND_PROCESS)

# -- bytes -----------------------------------------------------------------------------------


def test_the_numbers_of_the_header() -> None:
    assert (uapi.VFIO_IOMMU_BIND, uapi.VFIO_IOMMU_UNBIND) == (0x3B7A, 0x3B7B)
    assert (VFIO_IOMMU_BIND_PROCESS, VFIO_IOMMU_BIND_PASIDTBL) == (1, 2)
    assert (uapi.HEADER_BYTES, uapi.PROCESS_BYTES, uapi.TABLE_BYTES) == (8, 20, 32)


def test_a_table_bind_byte_by_byte() -> None:
    config = TableConfig(version=1, bytes=24, base_ptr=0x1122_3344_5566_7000, pasid_bits=20)
    body = "01000000 18000000 0070665544332211 14 00000000000000"
    assert encode_config(config).hex() == body.replace(" ", "")
    head = "20000000 02000000"
    data = encode_bind(BindCall(32, 2, config))
    assert data.hex() == (head + body).replace(" ", "")
    assert decode_bind(data) == BindCall(32, 2, config)


def test_a_process_bind_byte_by_byte() -> None:
    call = BindCall(20, 1, process=ProcessBind(flags=1, pasid=7, pid=-2))
    assert encode_bind(call).hex() == "14000000" "01000000" "01000000" "07000000" "feffffff"
    assert decode_bind(encode_bind(call)) == call


@given(CONFIGS, st.binary(max_size=9))
def test_configs_survive_their_bytes(config: TableConfig, tail: bytes) -> None:
    data = encode_config(config)
    assert len(data) == 24
    assert decode_config(data + tail) == config
    # The padding carries nothing.
    assert decode_config(data[:17] + b"\xff" * 7) == config


@given(st.binary(max_size=48))
def test_any_bytes_are_a_call_or_an_input_error(data: bytes) -> None:
    try:
        call = decode_bind(data)
    except InputError:
        return
    again = encode_bind(call)
    known = call.flags in (1, 2) and check_bind(call, Host()).guard != "argsz-covers-payload"
    size = min(len(again), len(data)) if known else 8
    # What the kernel reads comes back; the padding of pasid_table_config it does not read.
    assert again[: min(size, 25)] == data[: min(size, 25)]


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 7, encode_bind(BindCall())[:-1], encode_bind(PROCESS)[:-1]]
)
def test_memory_that_ends_early_is_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError, match="EFAULT"):
        decode_bind(data)


def test_a_short_argsz_hides_the_payload() -> None:
    data = encode_bind(BindCall(argsz=31))
    assert decode_bind(data[:8]) == decode_bind(data) == BindCall(argsz=31)


@pytest.mark.parametrize(
    "wrong",
    [TableConfig(version=-1), TableConfig(bytes=1 << 32), TableConfig(base_ptr=1 << 64),
     TableConfig(pasid_bits=256)],
)
def test_fields_out_of_range_are_value_errors(wrong: TableConfig) -> None:
    with pytest.raises(ValueError, match="out of its range"):
        encode_config(wrong)


# -- rules -----------------------------------------------------------------------------------

TABLE_OK, HOST_OK = BindCall(), Host()


@pytest.mark.parametrize(
    ("call", "host", "expected"),
    [
        (TABLE_OK, HOST_OK, (None, None)),
        (PROCESS, HOST_OK, (None, None)),
        (replace(TABLE_OK, argsz=7), HOST_OK, ("EINVAL", "argsz-covers-header")),
        (replace(TABLE_OK, flags=0), HOST_OK, ("EINVAL", "one-known-flag")),
        (replace(TABLE_OK, flags=3), HOST_OK, ("EINVAL", "one-known-flag")),
        (replace(TABLE_OK, flags=4), HOST_OK, ("EINVAL", "one-known-flag")),
        (replace(TABLE_OK, flags=2 | 1 << 31), HOST_OK, ("EINVAL", "one-known-flag")),
        (replace(TABLE_OK, argsz=31), HOST_OK, ("EINVAL", "argsz-covers-payload")),
        (replace(TABLE_OK, argsz=20), HOST_OK, ("EINVAL", "argsz-covers-payload")),
        (replace(TABLE_OK, argsz=33), HOST_OK, (None, None)),
        (replace(PROCESS, argsz=19), HOST_OK, ("EINVAL", "argsz-covers-payload")),
        (replace(PROCESS, process=ProcessBind(flags=1)), HOST_OK, (None, None)),
        (replace(PROCESS, process=ProcessBind(flags=2)), HOST_OK,
         ("EINVAL", "known-process-flags")),
        (TABLE_OK, Host(domain=False), ("EINVAL", "container-has-domain")),
        (PROCESS, Host(domain=False), ("EINVAL", "container-has-domain")),
        (TABLE_OK, Host(driver_op=False), ("ENODEV", "driver-has-op")),
        (TABLE_OK, Host(iommu=False), ("ENODEV", "device-has-iommu")),
        (TABLE_OK, Host(nesting=False), ("EINVAL", "iommu-has-nesting")),
        (TABLE_OK, Host(device_info=False), ("EINVAL", "device-has-info")),
        (TABLE_OK, Host(bound=True), ("EBUSY", "table-not-bound")),
        (TABLE_OK, Host(pasid_enables=False), ("EINVAL", "pasid-enables")),
        (TABLE_OK, Host(context_present=False), ("EINVAL", "context-present")),
        # A process bind does not meet the table's rules.
        (PROCESS, Host(pasid_bits=0, driver_op=False, iommu=False, nesting=False, bound=True),
         (None, None)),
    ],
)
def test_each_rule_refuses_with_its_errno(
    call: BindCall, host: Host, expected: tuple[str | None, str | None]
) -> None:
    assert check_bind(call, host) == expected


@pytest.mark.parametrize(
    ("bits", "host_bits", "errno"),
    [(4, 20, "ERANGE"), (0, 20, "ERANGE"), (5, 20, None), (20, 20, None), (21, 20, "ERANGE"),
     (255, 20, "ERANGE"), (16, 15, "ERANGE"), (15, 15, None), (5, 4, "ERANGE")],
)
def test_pasid_bits_lie_between_five_and_the_hosts(
    bits: int, host_bits: int, errno: str | None
) -> None:
    outcome = check(TableConfig(pasid_bits=bits), Host(pasid_bits=host_bits))
    assert outcome == (errno, errno and "pasid-bits-fit")


def test_the_order_of_refusals_is_the_kernels() -> None:
    """With everything wrong, each rule speaks once what comes before it is put right."""
    call = BindCall(argsz=0, flags=0, config=TableConfig(pasid_bits=0))
    host = Host(20, *[False] * 5, True, False, False)
    cures: list[tuple[str | None, Any]] = [
        ("argsz-covers-header", lambda c, h: (replace(c, argsz=8), h)),
        ("one-known-flag", lambda c, h: (replace(c, flags=2), h)),
        ("argsz-covers-payload", lambda c, h: (replace(c, argsz=32), h)),
        ("container-has-domain", lambda c, h: (c, replace(h, domain=True))),
        ("driver-has-op", lambda c, h: (c, replace(h, driver_op=True))),
        ("device-has-iommu", lambda c, h: (c, replace(h, iommu=True))),
        ("pasid-bits-fit", lambda c, h: (replace(c, config=TableConfig()), h)),
        ("iommu-has-nesting", lambda c, h: (c, replace(h, nesting=True))),
        ("device-has-info", lambda c, h: (c, replace(h, device_info=True))),
        ("table-not-bound", lambda c, h: (c, replace(h, bound=False))),
        ("pasid-enables", lambda c, h: (c, replace(h, pasid_enables=True))),
        ("context-present", lambda c, h: (c, replace(h, context_present=True))),
    ]
    for guard, cure in cures:
        assert check_bind(call, host).guard == guard
        call, host = cure(call, host)
    assert check_bind(call, host) == Outcome(None, None)


@pytest.mark.parametrize(
    ("config", "quadword"),
    [(TableConfig(pasid_bits=5), 0), (TableConfig(pasid_bits=20), 15),
     (TableConfig(pasid_bits=6, base_ptr=0xFFFF_FFFF_FFFF_FFFF), 0xFFFF_FFFF_FFFF_F001)],
)
def test_an_accepted_table_is_written_to_the_context_entry(
    config: TableConfig, quadword: int
) -> None:
    assert context_high(config) == quadword


def test_every_rule_is_cited_once() -> None:
    cited = {r.where for r in all_rules() if r.where.startswith(uapi.__name__)}
    used = {f"{r.refuses.__module__}.{r.refuses.__qualname__}" for r in BIND_RULES}
    assert cited == used | {f"{uapi.__name__}.context_high"}
    assert BIND_RULES[-len(DRIVER_RULES):] == DRIVER_RULES
    assert len({r.name for r in BIND_RULES}) == len(BIND_RULES)


# -- the two readings ------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(CALLS, HOSTS)
def test_z3_reads_the_same_rules(call: BindCall, host: Host) -> None:
    import z3

    def term(value: int) -> Term:
        return Term(z3.BitVecVal(value, 64))

    config, process = call.config, call.process
    symbolic = BindCall(
        term(call.argsz), term(call.flags),
        TableConfig(*map(term, (config.version, config.bytes, config.base_ptr, config.pasid_bits))),
        ProcessBind(term(process.flags), term(process.pasid), term(process.pid)),
    )
    facts = {n: Truth(z3.BoolVal(v)) for n, v in vars(host).items() if n != "pasid_bits"}
    number = first_refusal(
        SymbolicMemory().carrier(), symbolic, Host(term(host.pasid_bits), **facts)
    )
    found = z3.simplify(number.z).as_long()
    guard = check_bind(call, host).guard
    assert guard == (BIND_RULES[found - 1].name if found else None)
    assert z3.simplify(context_high(symbolic.config).z).as_long() == context_high(config)


def test_numpy_reads_the_same_rules() -> None:
    numpy = pytest.importorskip("numpy")
    from dmaproof.model.algebra import FlatPages, Image, NumpyCarrier

    rows = list(itertools.product([0, 8, 20, 31, 32], [0, 1, 2, 3], [4, 5, 20, 21], [False, True]))
    columns = [numpy.array(c) for c in zip(*rows, strict=True)]
    argsz, flags, bits = (c.astype(numpy.uint64) for c in columns[:3])
    every = numpy.ones(len(rows), dtype=bool)
    zero = numpy.zeros(len(rows), dtype=numpy.uint64)
    config, process = TableConfig(zero, zero, zero, bits), ProcessBind(zero, zero, zero)
    call = BindCall(argsz, flags, config, process)
    host = Host(20, *[every] * 5, columns[3], every, every)
    carrier = NumpyCarrier(FlatPages(Image(), len(rows)))
    numbers = first_refusal(carrier, call, host)
    for row, number in zip(rows, numbers, strict=True):
        concrete = BindCall(row[0], row[1], TableConfig(pasid_bits=row[2]))
        guard = check_bind(concrete, Host(bound=row[3])).guard
        assert guard == (BIND_RULES[int(number) - 1].name if number else None)


def test_z3_is_imported_for_proofs_only() -> None:
    code = (
        "import sys, dmaproof.model.vfio.uapi as u, dmaproof.properties.arguments\n"
        "u.check(u.TableConfig(), u.Host())\n"
        "sys.exit('z3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- claim C11 -------------------------------------------------------------------------------


def reads_bytes(call: BindCall, _: Host) -> Any:
    return uapi._is_table(call) & (call.config.bytes != 24)


def reads_version(call: BindCall, _: Host) -> Any:
    return uapi._is_table(call) & (call.config.version != uapi.PASID_TABLE_CFG_VERSION)


def with_rule(name: str, refuses: Any) -> Interface:
    return Interface((*BIND_RULES, ArgumentRule(name, "EINVAL", refuses)))


def test_c11_holds_and_version_is_unchecked() -> None:
    size, argsz, version = claim_c11()
    assert (size.result, argsz.result, version.result) == ("proved", "proved", "proved")
    assert size.witness is None
    assert size.finding == ""
    assert version.finding.startswith("version unchecked")
    assert argsz.witness is not None
    one, two = argsz.witness.answers
    assert {n for n in ARGUMENTS if one.arguments[n] != two.arguments[n]} == {"argsz"}
    # The witness departs from an ordinary call by as little as it can, whatever z3 finds first.
    assert (one.arguments["argsz"], two.arguments["argsz"]) == (32, 31)
    assert (one.outcome, two.outcome) == ((None, None), ("EINVAL", "argsz-covers-payload"))
    for answer in (one, two):
        assert arguments.answer_to(answer.arguments, argsz.witness.host) == answer


def test_a_kernel_that_reads_bytes_is_told_apart() -> None:
    mutant = with_rule("bytes-match", reads_bytes)
    size, argsz, version = claim_c11(mutant)
    assert (size.result, argsz.result, version.result) == ("refuted", "proved", "proved")
    assert size.witness is not None
    one, two = size.witness.answers
    assert {one.arguments["bytes"] == 24, two.arguments["bytes"] == 24} == {True, False}
    assert {one.outcome.guard, two.outcome.guard} == {None, "bytes-match"}


def test_a_kernel_that_checks_the_version_is_told_apart() -> None:
    size, _, version = claim_c11(with_rule("version-known", reads_version))
    assert (size.result, version.result) == ("proved", "refuted")
    assert version.finding == ""
    assert version.witness is not None
    assert {a.outcome.guard for a in version.witness.answers} == {None, "version-known"}


def test_an_effect_of_bytes_is_told_apart() -> None:
    def writes(config: TableConfig) -> Any:
        return context_high(config) | (config.bytes & 0xFF0)

    size = arguments.bytes_is_redundant(replace(KERNEL_2018, writes=writes))
    assert size.result == "refuted"
    assert size.witness is not None
    one, two = size.witness.answers
    assert one.outcome == two.outcome == (None, None)
    assert one.written != two.written


def test_a_kernel_that_ignores_argsz_is_told_apart() -> None:
    rules = tuple(r for r in BIND_RULES if not r.name.startswith("argsz"))
    assert arguments.argsz_decides(Interface(rules)).result == "refuted"


@pytest.mark.parametrize("field", ARGUMENTS)
def test_a_field_decides_or_is_ignored(field: str) -> None:
    ignored = field in ("version", "bytes", "process.pasid")
    assert arguments.ignores(field).result == ("proved" if ignored else "refuted")
    verdict = arguments.decides(field)
    assert verdict.result == ("refuted" if ignored else "proved")
    assert (verdict.witness is None) is ignored


def test_rules_that_the_caller_cannot_tell_apart_are_one_outcome() -> None:
    """Reading a field to choose between two -EINVAL decides nothing."""
    first = ArgumentRule("odd-bytes", "EINVAL", lambda c, _: (c.config.bytes & 1) == 1)
    then = ArgumentRule("even-bytes", "EINVAL", lambda c, _: c.argsz > 40)
    also = ArgumentRule("odd-and-long", "EINVAL", lambda c, _: (c.config.bytes & 1 == 1)
                        & (c.argsz > 40))
    assert arguments.ignores("bytes", Interface((also, then, *BIND_RULES))).result == "proved"
    assert arguments.ignores("bytes", Interface((first, *BIND_RULES))).result == "refuted"


@pytest.mark.parametrize("rule", BIND_RULES, ids=lambda r: r.name)
def test_every_rule_is_the_first_to_refuse_some_call(rule: ArgumentRule) -> None:
    verdict = arguments.can_refuse(rule.name)
    assert verdict.result == "proved"
    assert verdict.witness is not None
    (answer,) = verdict.witness.answers
    assert answer.outcome == (rule.errno, rule.name)


def test_a_dead_rule_and_a_wrong_name() -> None:
    dead = Interface((*BIND_RULES, ArgumentRule("again", "EINVAL", uapi.payload_is_short)))
    assert arguments.can_refuse("again", dead).result == "refuted"
    with pytest.raises(KeyError, match="no argument rule"):
        arguments.can_refuse("nothing")
    with pytest.raises(KeyError):
        arguments.ignores("pid")


# -- no verdict without a ground -------------------------------------------------------------


def test_unknown_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    import z3

    monkeypatch.setattr(arguments, "check_sat", lambda _: z3.unknown)
    for verdict in (*claim_c11(), arguments.can_refuse("one-known-flag")):
        assert verdict.result == "undecided"
        assert "unknown" in verdict.reason
        assert verdict.witness is None
        assert verdict.finding == ""


def test_a_kernel_that_refuses_everything_proves_nothing() -> None:
    mutant = with_rule("never", lambda c, _: c.argsz == c.argsz)
    verdict = arguments.bytes_is_redundant(mutant)
    assert verdict.result == "undecided"
    assert "vacuous" in verdict.reason


def test_a_witness_that_does_not_replay_is_no_verdict() -> None:
    """A rule whose readings disagree: z3 sees `bytes`, the concrete reading does not."""

    def torn(call: BindCall, _: Host) -> Any:
        return isinstance(call.config.bytes, Term) and reads_bytes(call, _)

    verdict = arguments.bytes_is_redundant(with_rule("torn", torn))
    assert (verdict.result, verdict.reason) == ("undecided", "replay-failed")

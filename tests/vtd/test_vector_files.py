"""The vector reader: outcomes in order, one clear error for each bad line, no good line lost."""

from __future__ import annotations

import gzip
import json

import pytest

from dmaproof.model import rules
from dmaproof.model.errors import InputError
from dmaproof.model.vtd.vectors import outcomes, read_lines

from .vocabulary import CAP_BASE, PT, SID, A, legacy


def good(**changes):
    builder, *_ = legacy()
    memory = {hex(a): hex(v) for a, v in builder.image.words.items()}
    line = {"cap": hex(CAP_BASE), "ecap": hex(PT), "rtaddr": hex(builder.root), "mem": memory,
            "req": {"sid": SID, "pasid": None, "addr": hex(A + 8), "write": True}}
    for key, value in changes.items():
        if value is None:
            del line[key]
        elif key == "req":
            line["req"] = line["req"] | value
        else:
            line[key] = value
    return json.dumps(line)


LANDED = {"hpa": 0x2000008}
BAD = {
    "missing key": (good(cap=None), "cap is missing"),
    "missing request key": (good(req={"sid": None}), "sid is not a number"),
    "narrow unit": (good(cap="0x0"), "host address width of 1 bits"),
    "address too wide": (good(req={"addr": "0x1" + "0" * 16}), "does not fit 64 bits"),
    "negative address": (good(req={"addr": -1}), "does not fit 64 bits"),
    "negative memory size": (good(ram=-4096), "does not fit 53 bits"),
    "negative size": (good(req={"size": -4}), "does not fit 13 bits"),
    "zero size": (good(req={"size": 0}), "empty or leaves its page"),
    "crosses its page": (good(req={"addr": A + 0xFFE}), "leaves its page"),
    "no number": (good(req={"addr": "here"}), "not a number"),
    "wide requester": (good(req={"sid": 1 << 16}), "does not fit 16 bits"),
    "wide pasid": (good(req={"pasid": 1 << 20}), "does not fit 20 bits"),
    "unaligned memory": (good(mem={"0x1001": 1}), "quadword at 0x1001"),
    "memory beyond ram": (good(ram=0x1000, mem={"0x2000": 1}), "quadword at 0x2000"),
    "wide quadword": (good(mem={"0x1000": 1 << 64}), "does not fit 64 bits"),
    "not json": ("{", "not JSON"),
    "deep json": ("[" * 100000, "not JSON"),
    "not an object": ("[1]", "not a JSON object"),
    "write is no boolean": (good(req={"write": "yes"}), "req.write is 'yes'"),
    "kind": (good(req={"kind": "odd"}), "req.kind"),
    "host permission table": (good(ecap=hex(1 << 55)), "host permission table"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_line_loses_no_other(name):
    text, what = BAD[name]
    results = list(outcomes([good(), text, "", good()]))
    assert [r.line for r in results] == [1, 2, 4]
    assert [r.outcome for r in results] == [LANDED, None, LANDED]
    error = results[1].error
    assert isinstance(error, InputError)
    assert what in error.what and "line 2" in error.where and error.remedy


def test_tables_that_loop_end():
    """A table that points at itself is walked as often as there are levels, no more."""
    builder, _, top = legacy()
    memory = {hex(a): hex(v) for a, v in builder.image.words.items()}
    for index in range(512):
        memory[hex(top + 8 * index)] = hex(top | 3)
    (result,) = outcomes([good(mem=memory)])
    assert result.outcome == {"hpa": top + 8}


def test_bulk_groups_keep_order_and_faults():
    lines = [good(req={"addr": A + 8 * n, "write": n % 3 != 0}) for n in range(512)]
    lines[100] = good(req={"addr": 1 << 48})
    lines[101] = good(req={"addr": 0xFEE00000})
    results = list(outcomes(lines))
    assert [r.line for r in results] == list(range(1, 513))
    assert results[5].outcome == {"hpa": 0x2000000 + 40}
    assert results[100].outcome == {"fault": 4, "condition": "LGN.1.1", "recorded": True,
                                    "rule": "vtd.second-stage.input-width"}
    assert results[101].outcome == {"interrupt": True}
    assert rules.find("vtd.second-stage.input-width").source.startswith("VT-d")


def test_files_plain_gzip_and_damaged(tmp_path):
    plain = tmp_path / "v.jsonl"
    plain.write_text(good() + "\n" + good() + "\n")
    zipped = tmp_path / "v.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, zipped):
        assert [r.outcome for r in outcomes(read_lines(path))] == [LANDED] * 2
    noise = bytes(range(256)) * 2000
    many = gzip.compress(((good() + "\n") * 50).encode() + noise.hex().encode(), 0)
    cut = tmp_path / "cut.gz"
    cut.write_bytes(many[:-2000])
    results = list(outcomes(read_lines(cut)))
    assert [r.outcome for r in results if r.error is None][:10] == [LANDED] * 10
    assert results[-1].error.what == "the gzip stream is damaged"
    garbage = {"garbage.gz": b"\x1f\x8bgarbage, not gzip", "binary": b"\xff\xfe\x00\x80"}
    for name, data in garbage.items():
        path = tmp_path / name
        path.write_bytes(data)
        (result,) = outcomes(read_lines(path))
        assert result.error.where == str(path) and result.error.remedy
    (result,) = outcomes(read_lines(tmp_path / "absent"))
    assert "cannot read" in result.error.what


def test_every_fault_names_a_registered_rule():
    from dmaproof.model.vtd import faults

    for row in faults.CONDITIONS[1:]:
        assert rules.find(row.rule).where.startswith("dmaproof.model.vtd."), row

"""Accessed and dirty flags that hardware fails to set: SFS.10 and SSS.6, in every carrier."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dmaproof.model.algebra import FlatPages, SymbolicMemory, word_z3
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import translate
from dmaproof.model.vtd.vectors import encode, outcomes

from .vocabulary import (
    CAP_BASE,
    DT,
    FULL,
    SID,
    A,
    V,
    nested,
    path,
    process,
    read,
    scalable,
    tagged,
    write,
)

ECAP = FULL | DT


def cases():
    """(image, request, pages that refuse writes, condition then)."""
    builder, *_, leaf, top = process()
    first = path(builder, top, V)
    yield "first stage, leaf", builder, tagged(5, V), [leaf], "SFS.10"
    yield "first stage, top", builder, tagged(5, V), [first[0]], "SFS.10"
    flagged, _, _, leaf, top = scalable(ssade=1, pwsnp=1)
    yield "second stage, leaf", flagged, read(A), [leaf], "SSS.6"
    yield "second stage, top", flagged, write(A), [path(flagged, top, A)[0]], "SSS.6"
    builder, _, walk, _ = nested()
    yield "nested, table", builder, tagged(5, V), [walk[-1]], "SFS.10"
    builder, _, _, leaf, _ = scalable()
    yield "no flags", builder, read(A), [leaf], None


CASES = {name: rest for name, *rest in cases()}


@pytest.mark.parametrize("name", CASES)
def test_update_failed(name):
    builder, request, addresses, condition = CASES[name]
    registers = Registers(CAP_BASE, ECAP, builder.root | 1 << 10, haw=48)
    image = builder.image.copy()
    assert translate(image, registers, request).fault == 0
    image.read_only = frozenset(a >> 12 for a in addresses)
    outcome = translate(image, registers, request)
    assert (outcome.condition.name if outcome.fault else None) == condition
    if outcome.fault:
        assert outcome.code == {"SFS.10": 0x91, "SSS.6": 0x7D}[condition] and outcome.recorded
    symbolic = translate(SymbolicMemory.of(image), registers, request)
    import z3

    assert z3.simplify(word_z3(symbolic.fault)).as_long() == outcome.fault
    lanes = Request(
        np.array([request.sid] * 40, dtype=np.uint64),
        np.array([request.address] * 40, dtype=np.uint64), request.write,
        request.pasid, request.with_pasid,
    )
    assert (translate(FlatPages(image, 40), registers, lanes).fault == outcome.fault).all()
    line = json.loads(json.dumps(encode(image, registers, request)))
    (result,) = outcomes([json.dumps(line)])
    assert result.error is None
    assert result.outcome.get("condition") == condition


def test_flags_that_are_set_need_no_update():
    builder, *_, top = process()
    registers = Registers(CAP_BASE, ECAP, builder.root | 1 << 10, haw=48)
    for where in path(builder, top, V):
        builder.image[where] |= 1 << 5 | 1 << 6
    builder.image.read_only = frozenset(a >> 12 for a in path(builder, top, V))
    assert translate(builder.image, registers, tagged(5, V, write=True)).fault == 0


@pytest.mark.parametrize(("name", "recorded", "answer"), [
    ("first stage, leaf", True, "success with R=W=U=S=0"),
    ("second stage, leaf", True, "completer abort"),
])
def test_a_translation_request_is_told_and_the_fault_recorded(name, recorded, answer):
    builder, request, addresses, _ = CASES[name]
    image = builder.image.copy()
    image.read_only = frozenset(a >> 12 for a in addresses)
    context = image[builder.root] & ~0xFFF
    image[context + 32 * SID] |= 1 << 2  # DTE
    registers = Registers(CAP_BASE, ECAP, builder.root | 1 << 10, haw=48)
    asked = Request(SID, request.address, False, request.pasid, request.with_pasid,
                    Kind.TRANSLATION)
    outcome = translate(image, registers, asked)
    assert outcome.recorded == recorded and outcome.answer.value == answer


@pytest.mark.parametrize("value", [5, {"0x1000": 1}, ["here"], [-1], "0x1000"])
def test_bad_list_of_pages(value):
    builder, *_ = process()
    registers = Registers(CAP_BASE, ECAP, builder.root | 1 << 10, haw=48)
    line = encode(builder.image, registers, tagged(5, V)) | {"read_only": value}
    (result,) = outcomes([json.dumps(line)])
    assert result.outcome is None and "read_only" in result.error.where and result.error.remedy

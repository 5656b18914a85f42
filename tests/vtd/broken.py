"""Rules broken on purpose: each a context manager that swaps one function of the engine."""

from __future__ import annotations

from contextlib import contextmanager

from dmaproof.model.algebra import MASK64
from dmaproof.model.vtd import extended, first_stage, nested, pasid, second_stage


@contextmanager
def swapped(module, name, value):
    """Replace an attribute of a module for the time of the block."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def table_not_translated():
    """First-stage tables are read at their guest-physical address."""
    def locate(c, r, address, top, *nest):
        return first_stage.Entry(address, True)

    return swapped(nested, "locate", locate)


def page_not_translated():
    """The output of the first stage is taken as host-physical."""
    def walk(c, r, codes, first, stage, address, write):
        limit = second_stage.limit_bits(c, r, stage.levels)
        guest, may_write, executable, bits = first_stage.walk(
            c, r, first, address, nested.locate, limit, (*stage, codes))
        return guest, True, may_write, executable, bits

    return swapped(nested, "walk", walk)


def pasid_table_host_physical():
    """Extended mode: PASIDPTR is taken as host-physical although NESTE=1."""
    return swapped(extended, "locate_pasid_entry", lambda c, r, context, address: address)


def neste_ignored():
    """Extended mode: NESTE=1 is treated like NESTE=0."""
    return swapped(extended, "_nested", extended._first)


def nested_type_as_first():
    """Scalable mode: PGTT=3 is treated like PGTT=1."""
    return swapped(pasid, "_nested", pasid._first)


def second_stage_write_right_ignored():
    """The write right of the final page is that of the first stage alone."""
    original = nested.walk

    def walk(*arguments):
        target, may_read, may_write, executable, bits = original(*arguments)
        return target, may_read, may_write | True, executable, bits

    return swapped(nested, "walk", walk)


def _step(change):
    original = second_stage.step

    def step(c, r, codes, level, address, *rest):
        return change(original, c, r, codes, level, address, *rest)

    return swapped(second_stage, "step", step)


def index_too_narrow():
    """The second stage indexes with eight bits a level."""
    def change(original, c, r, codes, level, address, *rest):
        return original(c, r, codes, level, address & (MASK64 ^ 1 << (11 + 9 * level)), *rest)

    return _step(change)


def offset_dropped():
    """The page offset is not added to the frame."""
    def change(original, c, r, codes, level, address, *rest):
        return original(c, r, codes, level, address & (MASK64 ^ 0xFFF), *rest)

    return _step(change)


def large_page_as_small():
    """A large page translates with a 4 KiB offset only."""
    def change(original, c, r, codes, level, address, *rest):
        result = original(c, r, codes, level, address, *rest)
        frame, target = result[0], result[4]
        if isinstance(target, int) and target == 0:  # no leaf at this level
            return result
        return (*result[:4], (frame & (MASK64 ^ 0xFFF)) | (address & 0xFFF), result[5])

    return _step(change)


def first_stage_table_at_wrong_level():
    """The first stage reads its last level with the index of the level above."""
    original = first_stage.step

    def step(c, r, locate, nest, nested_bits, level, first, address, *rest):
        shifted = (address & 0xFFF) | (address >> 9 & (MASK64 ^ 0xFFF)) if level == 1 else address
        return original(c, r, locate, nest, nested_bits, level, first, shifted, *rest)

    return swapped(first_stage, "step", step)


def present_bit_ignored():
    """First-stage entries count as present whatever P says."""
    return swapped(first_stage, "PRESENT", 0xFFF)


def supervisor_pages_open():
    """User requests may use supervisor pages (U/S is not checked)."""
    return swapped(first_stage, "USER", MASK64)


def first_stage_write_right_ignored():
    """R/W of first-stage entries does not matter."""
    original = first_stage.walk

    def walk(*arguments):
        target, may_write, executable, bits = original(*arguments)
        return target, may_write | True, executable, bits

    return swapped(first_stage, "walk", walk)


def rights_of_the_leaf_alone():
    """Second-stage rights are those of the last entry, not of all of them."""
    original = second_stage.step

    def step(c, r, codes, level, address, write, flags, snoop, table, *_):
        return original(c, r, codes, level, address, write, flags, snoop, table, True, True)

    return swapped(second_stage, "step", step)


def empty_entries_walked():
    """The second stage goes on below an entry without rights (legacy mode)."""
    def change(original, c, r, codes, level, address, *rest):
        frame, may_read, may_write, _, target, bits = original(
            c, r, codes, level, address, *rest)
        return frame, may_read | True, may_write | True, level == 1, target, bits

    return _step(change)


def pass_through_not_identity():
    """Pass-through drops the page offset."""
    def through(c, r, q, privileged, entry):
        return q.address & (MASK64 ^ 0xFFF), True, True, 12, False

    return swapped(pasid, "_pass", through)

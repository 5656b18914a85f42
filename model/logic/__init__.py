"""First-order transition systems, written once and read three ways.

`terms` has sorts, relations and formulas, `system` actions and modules, `reading` the one evaluator
that all readings share, `sets` the reading over Python sets, `ground` finite instances as bits (for
explicit search and finite z3), `smt` z3's readings, `epr` the fragment check.
"""

"""VT-d: the translation engine, bit for bit, one file per unit of the specification.

* `translate`: memory, registers and a request in, an outcome out; `registers`, `requests`,
  `faults`.
* Tables: `legacy`, `scalable`, `pasid`, `extended` (rev 2.x); walks: `second_stage`,
  `first_stage`, `nested`; `pass_through`, `interrupt_range`; fault records: `recording`.
* Caches: `invalidation` (what each command drops), `caches` (legal outcomes), `queue`.
* Writing tables: `entries` (bits), `builder` (images), `programs` (the driver's order).
* `vectors` (files), `obligations` (proofs), `rules_used` (why), `cache_rules` (rule layer).
"""

"""The study: every claim, regression and candidate defect as a row, asked anew and compared.

`table` reads the rows, `answers` answers one question, `pool` spreads questions over worker
processes, `runner` puts it all together for ``dmaproof study``.
"""

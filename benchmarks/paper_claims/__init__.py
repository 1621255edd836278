"""The paper's claims, measured on the embedded miniature: see docs/paper-claims.md for what comes of it.

`plan` says what is measured and in which order, `workers` and `studio` do it, `paintings` has what the results are
compared with, `results` and `statistics` keep and count, `verdicts` says what follows, `document` and `plots` show
them; `cli` is the command.
"""

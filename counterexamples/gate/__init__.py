"""What a change of a design strengthens, weakens or makes incomparable.

`changes` holds what is said of a pair of designs, `claims` compares designs of the study, `binds`
bind designs on machines, `operations` finds calls that are newly refused or newly allowed, `calls`
runs one design by the calls of another, `reports` writes JUnit and SARIF.
"""

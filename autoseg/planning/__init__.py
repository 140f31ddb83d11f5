"""`Fingerprint` and planner preset become a `Plan`: `plan` holds the order, `constants` the constants, `configuration` the values. Pure.

`spacing`, `topology` and `sizing` choose; `memory` and `timing` say what a choice costs on a machine; `reasons` says why, in sentences;
`validation` and `preflight` look at a plan before it is followed.
"""

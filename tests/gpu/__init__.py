"""What only a real accelerator can show, beside the conformance suite of device streams.

Needs CUDA; every test is skipped elsewhere. The litmus cases hold a native stream back by a
stream memory operation, so that each ordering is forced instead of hoped for, and each protection
has a twin without it that must go wrong: a case whose twin cannot fail shows nothing.
"""

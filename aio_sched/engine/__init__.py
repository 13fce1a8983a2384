"""Continuous batching of a language model, on top of the loop.

engine.py      ``Engine``, over the built-in model; text_engine.py: the front of every engine
requests.py    ``Request``, ``SamplingParams``, ``FinishReason``
admission.py   which requests make the next step (pure)
pipeline.py    the three stages; request_pipeline.py: what every pipeline of requests shares
model.py       the built-in byte-level transformer; weights.py loads it
experts.py     a mixture of experts made of it; expert_pipeline.py returns what it chose
kv_cache.py    its keys and values, by slot
constrained/   texts that meet a constraint: ``Regex``, ``JsonSchema``, and their delayed sampling
sampling.py    greedy and seeded sampling on the device
"""

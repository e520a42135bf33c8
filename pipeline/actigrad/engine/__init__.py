"""Engine: the transformation that captures. JAX alone; nothing here knows of files or pictures.

taps        marking a value as a site
jaxprs      the only room that knows what equations look like
flow, flops which site feeds which; what it costs
rewrite     opening taps inside every higher-order primitive
probes      the zero added at a tap, whose cotangent is the gradient; reductions inside the backward pass
program     a traced loss with its sites
transform   `capture` and `list_sites`
checking, attribution, per_sample, recompute, memory     what is built on capture
"""

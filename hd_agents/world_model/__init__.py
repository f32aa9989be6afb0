"""The recurrent state-space model: encoder, dynamics, decoders and heads, and the batch they learn from."""

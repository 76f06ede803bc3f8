"""A laboratory for verifiable reasoning: small transformers on arithmetic, from scratch in a minute."""

"""Reading activations, probes and twins, and measuring vitals."""

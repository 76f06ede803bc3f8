"""Papers that several conditions are taken from."""

from __future__ import annotations

from homeostat.core.component import Cite

AUTOTRAINER = Cite(
    "Zhang, Zhai, Ma and Shen", 2021, "AUTOTRAINER: DNN Training Problem Detection and Repair", "", "ICSE"
)
BENGIO = Cite("Bengio", 2012, "Practical recommendations for gradient-based training of deep networks", "1206.5533")
NEURALINT = Cite(
    "Nikanjam, Ben Braiek, Morovati and Khomh",
    2021,
    "Automatic Fault Detection for Deep Learning Programs Using Graph Transformations",
    "2105.08095",
)
TRAINCHECK = Cite("Jiang et al.", 2025, "Training with Confidence: Catching Silent Errors", "2506.14813", "OSDI")

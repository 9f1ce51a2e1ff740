"""Vector fields that experts learn, one kind per file; all become one network of layers for each environment."""

from hf_mixture.models.mixer.experts.base import Experts as Experts
from hf_mixture.models.mixer.experts.coda import CodaExperts
from hf_mixture.models.mixer.experts.geps import GepsExperts
from hf_mixture.models.mixer.experts.ncf import NcfExperts
from hf_mixture.models.mixer.experts.neural_ode import NeuralOdeExperts


EXPERTS: dict[str, type[Experts]] = {
    "coda": CodaExperts,
    "geps": GepsExperts,
    "ncf": NcfExperts,
    "neural_ode": NeuralOdeExperts,
}

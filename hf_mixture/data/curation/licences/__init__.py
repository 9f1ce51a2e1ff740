"""Which licence a document states, where the notice stands, and what restricts it."""

from hf_mixture.data.curation.licences.expressions import normalise_licence
from hf_mixture.data.curation.licences.find import find_licences
from hf_mixture.data.curation.licences.finding import LicenceFinding, Notice


__all__ = ["LicenceFinding", "Notice", "find_licences", "normalise_licence"]

"""Every file format that the package reads, by room."""

from __future__ import annotations

import formats_data
import formats_experts
import formats_models
import formats_runs


# Readers without a damaged artefact of their own in the tests of robustness, and why.
INDIRECT = {
    "hf_mixture.training.everything.publish": "the configuration of the adapter that the same run has saved",
    "hf_mixture.training.mobilenet": "weights of an installed package, with weights_only",
    "hf_mixture.hub.reading": "the readers themselves",
    "hf_mixture._compat.checkpoints": "checkpoints of the Trainer of nested models, in tests/moe/mwq",
    "hf_mixture.data.curation.annotate": "rows that the same run has made",
    "hf_mixture.data.curation.assemble": "arrays that the same run has made",
    "hf_mixture.data.curation.finish": "arrays that the same run has made",
    "hf_mixture.data.curation.publish": "plain data that the same function has made",
    "hf_mixture.data.curation.runs": "arrays that the same run has made",
    "hf_mixture.data.curation.safety": "a list that ships with the package",
    "hf_mixture.data.curation.inclusion": "headers of a page: what is no JSON is read as text, in tests/data/curation",
    "hf_mixture.data.curation.opt_outs": "tdmrep.json of a site: what is no JSON declares nothing",
    "hf_mixture.data.images.mnist": "an archive whose checksum is known",
    "hf_mixture.data.installed": "a table of the cache, written by `datasets`",
    "hf_mixture.data.domains": "data sets of users, read by `datasets`",
    "hf_mixture.data.mixture": "text that the same object holds",
    "hf_mixture.hub.artefacts": "what `doctor` reads: every format, in test_doctor_of_damaged_files",
    "hf_mixture.hub.documents": "what `doctor` reads: every format, in test_doctor_of_damaged_files",
    "hf_mixture.cli.doctor": "what `doctor` reads: every format, in test_doctor_of_damaged_files",
    "hf_mixture.moe.parallel.sharded_checkpoint": "needs processes that share a model, in tests/moe/parallel",
    "hf_mixture.moe.routers.replace": "plain data that the same function has made",
    "hf_mixture.training.matsim.plots": "a log of the same run",
    "hf_mixture.training.mixer.report": "a log of the same run",
    "hf_mixture.training.mote.stock": "answers of a process that this one has started",
    "hf_mixture.training.outcome": "a log of the same run",
    "hf_mixture.training.prepare": "text that the same run has prepared",
    "hf_mixture.training.reload": "answers of a process that this one has started",
    "hf_mixture.training.report": "the configuration of an adapter of the same run",
    "hf_mixture.training.spread.outcome": "a log of the same run",
    "hf_mixture.training.spread.run": "measurements of a process of the same run",
    "hf_mixture.training.taskexpert.pictures": "a log of the same run",
    "hf_mixture.training.thoughts.parts": "documents and scores of the same run",
    "hf_mixture.training.upcycle.outcome": "the configuration of a model of the same run",
}

FORMATS = (*formats_data.FORMATS, *formats_experts.FORMATS, *formats_models.FORMATS, *formats_runs.FORMATS)

"""All forms by the names under which `alds schema` publishes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from alds_cli.forms import Form
from alds_cli.schemas.error_document import ErrorForm
from alds_cli.schemas.evaluation_forms import EvaluateForm
from alds_cli.schemas.file_forms import (
    ArtefactForm,
    LatencyForm,
    MomentsForm,
    PlanForm,
    TableForm,
    TrainingForm,
)
from alds_cli.schemas.inspection_forms import CompareForm, ContentsForm, InspectForm
from alds_cli.schemas.iteration_forms import IterationForm, StageForm
from alds_cli.schemas.results import (
    CompressForm,
    ConfigForm,
    DemoForm,
    ExportForm,
    FamilyForm,
    IterateForm,
    OptimizeForm,
    Printed,
    ProfileForm,
    ReportForm,
    RetrainForm,
    SweepResultForm,
)
from alds_cli.schemas.sweep_folder import AskedForm, RecordForm, SweepForm


@dataclass(frozen=True, slots=True)
class Published:
    """One or several forms that a document may have, and what it is."""

    what: str
    forms: tuple[type[Form], ...]

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        printed = issubclass(self.forms[0], Printed)
        adapter: TypeAdapter[Any] = TypeAdapter(reduce(or_, self.forms))
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **adapter.json_schema(mode="serialization" if printed else "validation"),
        }


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "artefact": Published("the document in an artefact", (ArtefactForm,)),
        "plan": Published("a plan file", (PlanForm,)),
        "baseline": Published("sweep.json in a sweep's folder", (SweepForm,)),
        "asked": Published("asked.json in a sweep's folder", (AskedForm,)),
        "record": Published("one run in a sweep's folder", (RecordForm,)),
        "training": Published("an interrupted retraining, but for its tensors", (TrainingForm,)),
        "iteration": Published("iterate.json in the folder of an iteration", (IterationForm,)),
        "stage": Published("stage.json of a step in that folder", (StageForm,)),
        "table": Published("the head of an error table", (TableForm,)),
        "moments": Published("the head of a layer's moments in the cache", (MomentsForm,)),
        "latencies": Published("measured times in the cache", (LatencyForm,)),
        "profile": Published("alds profile --json", (ProfileForm,)),
        "compress": Published("alds compress --json", (CompressForm, FamilyForm)),
        "inspect": Published("alds inspect --json", (InspectForm, ContentsForm)),
        "evaluate": Published("alds evaluate --json", (EvaluateForm,)),
        "compare": Published("alds compare --json", (CompareForm,)),
        "optimize": Published("alds optimize --json", (OptimizeForm,)),
        "export": Published("alds export --json", (ExportForm,)),
        "train": Published("alds train --json", (RetrainForm,)),
        "retrain": Published("alds retrain --json", (RetrainForm,)),
        "iterate": Published("alds iterate --json", (IterateForm,)),
        "sweep": Published("alds sweep --json", (SweepResultForm,)),
        "report": Published("alds report --json", (ReportForm,)),
        "config": Published("alds config show --json", (ConfigForm,)),
        "demo": Published("alds demo --json", (DemoForm,)),
        "error": Published("what --json prints where an error ends a command", (ErrorForm,)),
    }
)

"""What a DAG author's editor and Airflow's pages know of operators: documented, typed, rendered."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from importlib.resources import files
from itertools import chain

import pytest
from airflow.sdk import BaseOperator, BaseSensorOperator

from airflow_raif.decorators.batch import _BatchDecoratedOperator, raif_batch_task
from airflow_raif.destinations.sql import SqlTable
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.notifications.batch import BatchNotifier
from airflow_raif.operators.arguments import BatchArguments, SourcedBatchArguments, TaskArguments
from airflow_raif.operators.batch import (
    ApplyBatchResultsOperator,
    BatchInferenceOperator,
    CancelBatchOperator,
    SubmitBatchOperator,
)
from airflow_raif.operators.groups import batch_group
from airflow_raif.operators.maintenance import MaintainBatchesOperator, maintenance_dag
from airflow_raif.sensors.batch import WaitForBatchSensor
from airflow_raif.triggers.batch import BatchTrigger

OPERATORS = (
    SubmitBatchOperator, WaitForBatchSensor, ApplyBatchResultsOperator, CancelBatchOperator, BatchInferenceOperator,
    MaintainBatchesOperator,
)  # fmt: skip


def parameters_of(thing):
    """Return the parameters of a function, or those that a class and its bases in this package take, by name."""
    if not isinstance(thing, type):
        found = [inspect.signature(thing)]
    else:
        own = [
            each for each in thing.__mro__ if "__init__" in vars(each) and each.__module__.startswith("airflow_raif")
        ]
        found = [inspect.signature(inspect.unwrap(each.__init__)) for each in own]
    return {
        name: each
        for signature in found
        for name, each in signature.parameters.items()
        if each.kind is not each.VAR_KEYWORD and name != "self"
    }


def documented_by(thing):
    """Return the parameters that a docstring explains, and those of the class whose arguments it says it takes."""
    text = inspect.getdoc(thing)
    found = set(re.findall(r":param (\w+): \S", text))
    if taken := re.search(r"Takes the arguments of :class:`~?([\w.]+)`", text):
        module, _, name = taken[1].rpartition(".")
        found |= documented_by(getattr(import_module(module or thing.__module__), name))
    return found


@pytest.mark.parametrize(
    "thing",
    [*OPERATORS, SqlTable, BatchTrigger, BatchHook, BatchNotifier, batch_group, raif_batch_task, maintenance_dag],
    ids=lambda each: each.__name__,
)
def test_every_parameter_is_documented(thing):
    """None is left to be looked up in the source."""
    missing = set(parameters_of(thing)) - documented_by(thing)
    assert not missing


def test_arguments_that_are_handed_on_are_known():
    """The decorator's and the group's are those of the operator, with no name forgotten and none that is not there."""
    taken = set(parameters_of(BatchInferenceOperator))
    own = set(SourcedBatchArguments.__annotations__) - set(TaskArguments.__annotations__)
    assert own == taken
    sources = {"requests", "sql", "sql_conn_id", "sql_parameters"}
    assert set(BatchArguments.__annotations__) == set(SourcedBatchArguments.__annotations__) - sources
    airflows = set(inspect.signature(inspect.unwrap(BaseOperator.__init__)).parameters)
    # New in Airflow 3.3.
    assert set(TaskArguments.__annotations__) - airflows <= {"retry_policy"}


@pytest.mark.parametrize("operator", [*OPERATORS, _BatchDecoratedOperator], ids=lambda each: each.__name__)
def test_template_fields(operator):
    """Each is an argument, and is shown as what it is; prompts and rows are in none of them."""
    inherited = chain(BaseSensorOperator.template_fields, ("templates_dict", "op_args", "op_kwargs"))
    # The address is requests, where they are one.
    fields = set(operator.template_fields) - set(inherited) - {"address"}
    assert fields <= set(parameters_of(operator))
    assert not fields & {"requests", "prompt_template", "system_prompt", "output_type", "request_params"}
    assert set(operator.template_fields_renderers) <= set(operator.template_fields)
    for name in {"sql", "sql_parameters", "batch_metadata", "batch"} & fields:
        assert operator.template_fields_renderers[name] == ("sql" if name == "sql" else "json")


def test_the_packages_tasks_have_a_color_of_their_own():
    """They are told from others at a glance."""
    assert {each.ui_color for each in OPERATORS} - {BaseOperator.ui_color} == {SubmitBatchOperator.ui_color}


def test_types_are_shipped():
    """Type checkers read the package's annotations only beside this file."""
    assert files("airflow_raif").joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    ("function", "arguments"), [(batch_group, SourcedBatchArguments), (raif_batch_task, BatchArguments)]
)
def test_arguments_that_are_handed_on_are_typed(function, arguments):
    """An editor completes them, and a type checker tells a misspelt or missing one."""
    assert function.__annotations__["arguments"] == f"Unpack[{arguments.__name__}]"

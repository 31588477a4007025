"""The public names of the library, by module. `__init__.py` imports each when it is first used."""

from .adapters.composition import compose as compose
from .adapters.loading import (
    load_adapter as load_adapter,
    run_settings as run_settings,
    virtual_tokens as virtual_tokens,
)
from .adapters.switch import has_base as has_base, without_adapter as without_adapter
from .adapters.transfer import load_start as load_start
from .config.methods import (
    ContextConfig as ContextConfig,
    CPTConfig as CPTConfig,
    EncoderConfig as EncoderConfig,
    HardPromptConfig as HardPromptConfig,
    IA3Config as IA3Config,
    LoraConfig as LoraConfig,
    MultitaskConfig as MultitaskConfig,
    PrefixConfig as PrefixConfig,
    PromptConfig as PromptConfig,
)
from .config.sections import (
    EvaluationConfig as EvaluationConfig,
    ModelConfig as ModelConfig,
    RunConfig as RunConfig,
    TaskConfig as TaskConfig,
    TrainingConfig as TrainingConfig,
)
from .config.tools import (
    AdapterConfig as AdapterConfig,
    ComposeConfig as ComposeConfig,
    ContestantConfig as ContestantConfig,
    EnsembleConfig as EnsembleConfig,
    ExportConfig as ExportConfig,
    ForgetConfig as ForgetConfig,
    GovernanceConfig as GovernanceConfig,
    InputConfig as InputConfig,
    NeighboursConfig as NeighboursConfig,
    NewConfig as NewConfig,
    OutcomesConfig as OutcomesConfig,
    PlanConfig as PlanConfig,
    ReadinessConfig as ReadinessConfig,
    ReportConfig as ReportConfig,
    SamplingConfig as SamplingConfig,
    ServeConfig as ServeConfig,
)
from .encoding.documents import with_soft_prompt as with_soft_prompt
from .encoding.tokenization import check_lengths as check_lengths, encode as encode
from .engine.build import make_engine as make_engine
from .engine.forward import Engine as Engine
from .evaluation.comparison import (
    contestants as contestants,
    load_contestant as load_contestant,
)
from .evaluation.ensemble import (
    behind_each as behind_each,
    load_members as load_members,
    members as members,
    outcome_of_vote as outcome_of_vote,
    summary_of_members as summary_of_members,
)
from .evaluation.hard_prompts import (
    choose_wording as choose_wording,
    written_tasks as written_tasks,
)
from .evaluation.interactive import (
    answer as answer,
    check_sampling as check_sampling,
    own_flags as own_flags,
    task_of_texts as task_of_texts,
)
from .evaluation.library import (
    nearest_adapters as nearest_adapters,
    write_index as write_index,
)
from .evaluation.neighbours import (
    nearest_tokens as nearest_tokens,
    random_vectors as random_vectors,
    table_of as table_of,
    virtual_token_embeddings as virtual_token_embeddings,
)
from .evaluation.predict import (
    evaluate_test as evaluate_test,
    metrics_by as metrics_by,
    predict as predict,
)
from .evaluation.soup import make_soup as make_soup
from .export.forms import write_export as write_export
from .forgetting.plan import plan_forgetting as plan_forgetting
from .forgetting.proof import (
    check_forgotten as check_forgotten,
    prove_forgotten as prove_forgotten,
)
from .forgetting.runs import trained_run as trained_run
from .governance.record import write_governance as write_governance
from .methods.baselines.full_finetuning import train_everything as train_everything
from .methods.baselines.ia3 import add_ia3 as add_ia3
from .methods.baselines.lora import add_lora as add_lora
from .methods.preflight import check_method as check_method
from .methods.soft_prompts.context_tuning import (
    add_context as add_context,
    demonstrations as demonstrations,
)
from .methods.soft_prompts.cpt import add_cpt as add_cpt
from .methods.soft_prompts.multitask_prompt_tuning import (
    add_multitask_prompt as add_multitask_prompt,
    by_task as by_task,
    factors_alone as factors_alone,
    training_of_factors as training_of_factors,
)
from .methods.soft_prompts.p_tuning import add_prompt_encoder as add_prompt_encoder
from .methods.soft_prompts.prefix_tuning import add_prefix as add_prefix
from .methods.soft_prompts.prompt_tuning import add_soft_prompt as add_soft_prompt
from .metrics.planning import plan_lines as plan_lines
from .models.identity.facts import facts_of as facts_of
from .models.loading import (
    default_device as default_device,
    input_spec as input_spec,
    kind_of as kind_of,
    load_base_model as load_base_model,
)
from .readiness.page import (
    missing_baseline as missing_baseline,
    write_readiness as write_readiness,
)
from .reports.comparison import save_contest as save_contest
from .reports.outcomes import compare_outcomes as compare_outcomes
from .reports.pages.own_page import write_report as write_report
from .reports.run import (
    save_adapter as save_adapter,
    save_model as save_model,
    save_run as save_run,
    save_soup as save_soup,
)
from .runs.command import cli as cli
from .runs.environment import environment as environment
from .runs.estimate import estimated_seconds as estimated_seconds
from .runs.run import start_run as start_run
from .serving.batch import check_served as check_served
from .serving.http.server import run_server as run_server
from .serving.http.service import load_tasks as load_tasks
from .sweeps.grid import Point as Point, SweepConfig as SweepConfig, grid_of as grid_of
from .sweeps.sweep import (
    as_chosen as as_chosen,
    run_sweep as run_sweep,
    save_sweep as save_sweep,
)
from .system.files import (
    one_line as one_line,
    write_atomically as write_atomically,
)
from .tasks.proposal import (
    fit_sizes as fit_sizes,
    propose as propose,
    write_proposal as write_proposal,
)
from .tasks.task import Task as Task, load_task as load_task
from .training.loop import train as train

__version__: str

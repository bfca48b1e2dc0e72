from types import SimpleNamespace

import pytest

from lesionkeras.config import OptimizerConfig
from lesionkeras.training.checkpoints import TrainingState
from lesionkeras.training.optimizers import compute_budget_rate, compute_plateau_rate
from lesionkeras.training.schedules import CpuClock, PlateauRate

COSINE = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_fraction=0.2)


class Run:
    """Steps of two seconds, validation of fifty, until somebody stops it."""

    def __init__(self, state, budget_s, total_steps=0, config=COSINE):
        self.now, self.rates, self.state = 100.0, [], state
        self.model = SimpleNamespace(
            stop_training=False, optimizer=SimpleNamespace(learning_rate=config.learning_rate)
        )
        self.clock = CpuClock(state, config, budget_s, total_steps, clock=lambda: self.now)
        self.clock.set_model(self.model)

    def run_epoch(self, steps):
        self.clock.on_epoch_begin(0)
        for batch in range(steps):
            self.clock.on_train_batch_begin(batch)
            self.rates.append(self.model.optimizer.learning_rate)
            self.now += 2.0
            self.clock.on_train_batch_end(batch)
            if self.model.stop_training:
                return
        self.now += 50.0
        self.state.step += steps


def test_a_budget_counts_steps_alone_and_ends_in_mid_epoch():
    run = Run(TrainingState(), 10.0)
    run.run_epoch(3)
    assert run.state.cpu_s == 6.0 and not run.model.stop_training
    run.run_epoch(3)
    assert run.model.stop_training and run.state.cpu_s == 10.0 and len(run.rates) == 5
    wanted = [compute_budget_rate(COSINE, share) for share in (0.0, 0.2, 0.4, 0.6, 0.8)]
    assert run.rates == wanted and wanted[1] == 1.0 and 0 < wanted[0] < 0.1


def test_a_resumed_run_goes_on_with_what_it_has_used():
    run = Run(TrainingState(cpu_s=6.0), 10.0)
    run.run_epoch(9)
    assert run.rates == [compute_budget_rate(COSINE, share) for share in (0.6, 0.8)]


def test_the_schedule_follows_steps_where_they_end_the_run_first():
    run = Run(TrainingState(step=2), 1000.0, total_steps=8)
    run.run_epoch(2)
    assert run.rates == [compute_budget_rate(COSINE, share) for share in (0.25, 0.375)]
    assert run.clock.share == 5 / 8  # four steps are done, and the last batch's number is 1


def test_without_a_budget_seconds_are_counted_and_nothing_else():
    run = Run(TrainingState(), 0.0)
    run.model.optimizer.learning_rate = 7.0
    run.run_epoch(3)
    assert run.state.cpu_s == 6.0 and run.rates == [7.0] * 3 and run.clock.share == 0.0


def test_a_plateau_under_a_budget_keeps_its_own_rate():
    run = Run(TrainingState(), 100.0, config=OptimizerConfig(learning_rate=0.5, schedule="plateau"))
    run.run_epoch(2)
    assert run.rates == [0.5, 0.5]


def test_rates_by_hand():
    constant = OptimizerConfig(learning_rate=2.0, schedule="constant", warmup_fraction=0.5)
    assert [compute_budget_rate(constant, s) for s in (0.0, 0.25, 0.5, 1.0)] == [
        0.02,
        1.0,
        2.0,
        2.0,
    ]
    plain = OptimizerConfig(learning_rate=2.0, schedule="constant", warmup_fraction=0.0)
    assert compute_budget_rate(plain, 0.0) == 2.0
    assert compute_budget_rate(COSINE, 1.5) == pytest.approx(0.0)  # the last step may pass the end


def test_plateaus_by_hand():
    config = OptimizerConfig(learning_rate=1.0, plateau_factor=0.5, plateau_patience_epochs=2)
    rates = {
        (): 1.0,
        (3.0, 2.0, 1.0): 1.0,
        (1.0, 1.0, 0.99995): 0.5,  # less by less than 1e-4 is no less
        (1.0, 2.0, 0.5, 2.0): 1.0,
        (1.0, 2.0, 2.0, 2.0): 0.5,  # waits two epochs more
        (1.0, 2.0, 2.0, 2.0, 2.0): 0.25,
        (1.0, 2.0, 2.0, 0.5, 0.6, 0.7): 0.25,
    }
    for losses, rate in rates.items():
        assert compute_plateau_rate(config, losses) == rate, losses


def test_plateau_of_validation_where_there_is_one():
    config = OptimizerConfig(
        learning_rate=1.0, schedule="plateau", plateau_factor=0.5, plateau_patience_epochs=1
    )
    rows = [{"loss": 3.0}, {"loss": 2.0, "val_loss": 1.0}, {"loss": 1.0, "val_loss": 1.5}]
    for given, rate in ((rows, 0.5), ([{"loss": 3.0}, {"loss": 2.0}], 1.0), ([], 1.0)):
        callback = PlateauRate(TrainingState(rows=given), config)
        callback.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=9.0)))
        callback.on_train_begin()  # as after a resume
        assert callback.model.optimizer.learning_rate == rate
    callback.model.optimizer.learning_rate = 9.0
    callback.on_epoch_end(3)
    assert callback.model.optimizer.learning_rate == 1.0


def test_other_schedules_are_left_alone():
    callback = PlateauRate(TrainingState(rows=[{"loss": 1.0}] * 30), COSINE)
    callback.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=9.0)))
    callback.on_train_begin()
    assert callback.model.optimizer.learning_rate == 9.0


def test_a_phase_ends_with_its_own_budget_and_follows_the_whole_runs():
    run = Run(TrainingState(), 6.0)
    run.clock = CpuClock(run.state, COSINE, 6.0, whole_s=10.0, clock=lambda: run.now)
    run.clock.set_model(run.model)
    run.run_epoch(9)
    assert run.model.stop_training and run.state.cpu_s == 6.0
    assert run.rates == [compute_budget_rate(COSINE, share) for share in (0.0, 0.2, 0.4)]
    assert run.clock.share == 0.6

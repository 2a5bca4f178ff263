"""The trained CIFAR-10 ResNet-20 on 600 test images: accuracy, lossless conversion, and an independent reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.cifar10 import load_resnet
from helpers.evaluation import digits_per_activation
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

Activation = Callable[[Tensor, str], Tensor]


def percent(logits: Tensor, labels: Tensor) -> float:
    return 100 * (logits.argmax(1) == labels).double().mean().item()


@torch.no_grad()
def in_batches(predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([predict(x) for x in images.split(200)])


def resnet_forward(model: nn.Module, x: Tensor, activation: Activation, carry: Activation | None = None) -> Tensor:
    """
    ResNet-20 written out, from the parameters of ``model`` alone; ``activation`` is called with the value and the
    name of the place, and so is ``carry``, which gives what shortcuts take (``None``: the activation). Knows nothing of
    graphs, nodes or spikes, and so is the same on every SpikingJelly release.
    """
    p = dict(model.named_parameters()) | dict(model.named_buffers())

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, p[f"{conv}.weight"], None, stride, 1)
        return F.batch_norm(x, *(p[f"{bn}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")))

    def fire(x: Tensor, at: str) -> tuple[Tensor, Tensor]:
        y = activation(x, at)
        return y, y if carry is None else carry(x, at)

    x, shortcut = fire(conv_bn(x, "conv1", "bn1"), "stem")
    for stage in (1, 2, 3):
        for block in range(3):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            if stride == 2:
                half = shortcut.shape[1] // 2
                shortcut = F.pad(shortcut[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
            x = activation(conv_bn(x, f"{at}.conv1", f"{at}.bn1", stride), f"{at}.a")
            x, shortcut = fire(conv_bn(x, f"{at}.conv2", f"{at}.bn2") + shortcut, f"{at}.b")
    return F.linear(x.mean((2, 3)), p["linear.weight"], p["linear.bias"])


def test_the_reference_is_the_network(resnet20: nn.Module, cifar_test: tuple[Tensor, Tensor]) -> None:
    images, labels = cifar_test
    logits = in_batches(resnet20, images)
    assert percent(logits, labels) == pytest.approx(91.83, abs=0.01)
    reference = in_batches(lambda x: resnet_forward(resnet20, x, lambda v, at: v.relu()), images)
    torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-4)


@pytest.fixture
def with_qcfs(resnet20: nn.Module, cifar_train: tuple[Tensor, Tensor]) -> nn.Module:
    """ResNet-20 with a QCFS of 4 levels and any threshold at each ReLU."""
    model = sjpc.replace_activations(resnet20, sjpc.QCFS, [cifar_train[0][:64]], levels=4).eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, sjpc.QCFS):
            module.v_threshold.data.fill_(torch.rand((), generator=generator) * 3 + 0.5)
    return model


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_qcfs_network_converts_without_loss(
    with_qcfs: nn.Module,
    cifar_train: tuple[Tensor, Tensor],
    cifar_test: tuple[Tensor, Tensor],
    layout: torch.memory_format,
) -> None:
    """To the bit, because convolutions run on the same values in the same memory layout as in the ANN."""
    images = cifar_test[0].contiguous(memory_format=layout)
    options = {"threshold": "max", "calibration": "da_qcfs", "show_progress": False}
    snn = sjpc.ParallelConverter([cifar_train[0][:64]], time_steps=4, **options).convert(with_qcfs)
    logits = in_batches(with_qcfs, images)
    predicted = in_batches(snn.predict, images)
    assert torch.equal(predicted, logits)
    stepped = in_batches(lambda x: sum(snn(x) for _ in range(4)) / 4, images)
    torch.testing.assert_close(stepped, logits, rtol=0, atol=1e-4)
    functional.set_step_mode(snn, "m")
    decoded = in_batches(lambda x: snn.decode(snn(x.expand(4, *x.shape))), images)
    assert torch.equal(decoded.argmax(1), logits.argmax(1))
    torch.testing.assert_close(decoded, logits, rtol=0, atol=1e-4)
    snn.execution = "packed"
    assert torch.equal(in_batches(snn.predict, images), logits)


def test_qcfs_network_against_the_reference(with_qcfs: nn.Module, cifar_test: tuple[Tensor, Tensor]) -> None:
    """In float64, because float32 moves values across the steps when only the order of two additions changes."""
    images = cifar_test[0][:50].double()
    model = with_qcfs.double()

    def qcfs(x: Tensor, at: str) -> Tensor:
        block, _, position = at.rpartition(".")
        name = {"stem": "relu", "a": f"{block}.relu", "b": f"{block}.relu_1"}[position]
        theta = model.get_submodule(name).v_threshold
        return theta / 4 * ((x * 4 + theta / 2) / theta).floor().clamp(0, 4)

    snn = sjpc.ParallelConverter(
        [images[:8]], time_steps=4, threshold="max", calibration="none", show_progress=False
    ).convert(model)
    with torch.no_grad():
        torch.testing.assert_close(snn.predict(images), resnet_forward(model, images, qcfs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("T", [4, 16])
@pytest.mark.parametrize("shortcut", ["spikes", "membrane"])
def test_training_free_conversion_against_the_reference(
    resnet20: nn.Module, cifar_train: tuple[Tensor, Tensor], cifar_test: tuple[Tensor, Tensor], T: int, shortcut: str
) -> None:
    """Largest activation of each channel, then clip and floor: the whole network by hand, in float64."""
    ann, calibration, images = resnet20.double(), cifar_train[0][:100].double(), cifar_test[0][:50].double()
    theta: dict[str, Tensor] = {}

    def record(x: Tensor, at: str) -> Tensor:
        x = x.relu()
        theta[at] = x.amax((0, 2, 3), keepdim=True)
        return x

    def quantised(x: Tensor, at: str) -> Tensor:
        return theta[at] / T * (x * T / theta[at] + 0.5).floor().clamp(0, T)

    def record_carried(x: Tensor, at: str) -> Tensor:
        return x + record(-x, f"{at}, carried")

    def carried(x: Tensor, at: str) -> Tensor:
        return x + quantised(-x, f"{at}, carried")

    carries = (record_carried, carried) if shortcut == "membrane" else (None, None)
    with torch.no_grad():
        resnet_forward(ann, calibration, record, carries[0])
        expected = resnet_forward(ann, images, quantised, carries[1])
        options = {"threshold": "max", "calibration": "none", "show_progress": False, "shortcut": shortcut}
        snn = sjpc.ParallelConverter([calibration], time_steps=T, **options).convert(ann)
        for snn.execution in ("spikes", "packed"):
            torch.testing.assert_close(snn.predict(images), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("T", "at_least"), [(8, 83.0), (16, 89.0), (32, 91.0)])
def test_accuracy_of_the_papers_calibration(
    resnet20: nn.Module,
    cifar_train: tuple[Tensor, Tensor],
    cifar_test: tuple[Tensor, Tensor],
    T: int,
    at_least: float,
) -> None:
    images, labels = cifar_test
    before = {key: value.clone() for key, value in resnet20.state_dict().items()}
    options = {"threshold": "max", "calibration": "da_qcfs", "show_progress": False}
    loader = list(cifar_train[0][:1024].split(8))  # all 4,096 give as much
    snn = sjpc.ParallelConverter(loader, time_steps=T, **options).convert(resnet20)
    assert all(torch.equal(before[key], value) for key, value in resnet20.state_dict().items())
    logits = in_batches(snn.predict, images)
    assert percent(logits, labels) >= at_least
    snn.execution = "packed"
    assert torch.equal(in_batches(snn.predict, images), logits)


@pytest.mark.parametrize("T", [2, 8])
def test_spikes_equal_counts_with_max_pooling(cifar_train: tuple[Tensor, Tensor], T: int) -> None:
    """A network with overlapping and plain max pooling, on real images: equal to the bit."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(1024, 10),
    ).eval()  # fmt: skip
    images = cifar_train[0][:256]
    options = {"threshold": "max", "calibration": "da_qcfs", "show_progress": False}
    snn = sjpc.ParallelConverter(list(images.split(32)), time_steps=T, **options).convert(ann)
    with torch.no_grad():
        spikes = snn.predict(images)
        snn.execution = "packed"
        assert torch.equal(snn.predict(images), spikes)
        snn.execution = "stepwise"
        torch.testing.assert_close(snn.predict(images), spikes, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_serial_css(resnet20: nn.Module, cifar_train: tuple[Tensor, Tensor], cifar_test: tuple[Tensor, Tensor]) -> None:
    """Digit by digit through twenty layers, each neuron up to a level off: nearly always the closed form's class."""
    options = {"mode": "css", "time_steps": 6, "calibration": "weights", "show_progress": False}
    snn = sjpc.ParallelConverter(list(cifar_train[0][:256].split(32)), **options).convert(resnet20)
    images = cifar_test[0]
    closed = in_batches(snn.predict, images).argmax(1)
    snn.execution = "serial"
    assert percent(in_batches(snn.predict, images), closed) >= 98.5  # 99.2 as measured; the standard error is 0.4
    for site in snn.neurons():
        site.node.silent_steps = 2
    assert percent(in_batches(snn.predict, images), closed) >= 99.0


@pytest.mark.slow
def test_signed_digits_need_fewer_spikes(
    resnet20: nn.Module, cifar_train: tuple[Tensor, Tensor], cifar_test: tuple[Tensor, Tensor]
) -> None:
    """With the same levels the same logits, and fewer digits; with fewer levels nearly always the same class."""
    digits, logits = {}, {}
    for mode, T, filled in (*((m, T, 1.0) for m in ("spikepack", "css") for T in (4, 8)), ("css", 4, 0.67)):
        options = {"mode": mode, "time_steps": T, "calibration": "least_squares", "filled_levels": filled}
        snn = sjpc.ParallelConverter([cifar_train[0][:128]], show_progress=False, **options).convert(resnet20)
        logits[mode, T, filled] = in_batches(snn.predict, cifar_test[0][:200])
        digits[mode, T, filled] = digits_per_activation(snn, cifar_test[0][:200])
    for T, filled, ratio in ((4, 1.0, 0.98), (4, 0.67, 0.86), (8, 1.0, 0.87)):
        assert digits["css", T, filled] <= ratio * digits["spikepack", T, 1.0]
    assert percent(logits["css", 4, 0.67], logits["spikepack", 4, 1.0].argmax(1)) >= 93.0
    for T in (4, 8):
        assert torch.equal(logits["css", T, 1.0], logits["spikepack", T, 1.0])


@pytest.fixture(scope="module")
def counting_nets(cifar_data: Path, cifar_train: tuple[Tensor, Tensor]) -> dict[str, nn.Module]:
    """ResNet-20 in each mode, T = 4."""
    ann = load_resnet("resnet20", cifar_data / "weights" / "resnet20_cifar10.pt")
    options = {"time_steps": 4, "calibration": "none", "show_progress": False}
    modes = ("parallel", "spikepack", "css")
    return {m: sjpc.ParallelConverter([cifar_train[0][:16]], mode=m, **options).convert(ann) for m in modes}


def synops_of_convolution(train: Tensor, stride: int, out_channels: int) -> int:
    """Kernel place by kernel place, for 3x3 kernels with a border of one; ``train`` is ``[T, N, C, H, W]``."""
    spikes, size = F.pad((train != 0).long(), (1, 1, 1, 1)), train.shape[-1]
    starts = range(0, size, stride)
    rows = torch.tensor([[a + i for i in starts] for a in range(3)])
    return sum(int(spikes[..., rows[a], :][..., rows[b]].sum()) for a in range(3) for b in range(3)) * out_channels


@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
def test_synaptic_operations_by_hand(
    counting_nets: dict[str, nn.Module], cifar_test: tuple[Tensor, Tensor], mode: str
) -> None:
    """Each convolution reads the train of the neuron before it, the classifier what is left of the last at a step."""
    snn, images, trains = counting_nets[mode], cifar_test[0][:2], []
    hooks = [s.node.register_forward_hook(lambda node, args, train: trains.append(train)) for s in snn.neurons()]
    snn.predict(images)
    for hook in hooks:
        hook.remove()
    synops = {row.name: round(2 * row.synops) for row in sjpc.count_operations(snn, [images], show_progress=False).rows}
    layers = [f"layer{stage}.{block}.conv{i}" for stage in (1, 2, 3) for block in range(3) for i in (1, 2)]
    strides = [2 if name in ("layer2.0.conv1", "layer3.0.conv1") else 1 for name in layers]
    by_hand = {
        name: synops_of_convolution(train, stride, 16 * 2 ** (int(name[5]) - 1))
        for name, train, stride in zip(layers, trains[:-1], strides, strict=True)
    } | {"linear": 10 * int((trains[-1].mean((3, 4)) != 0).sum())}
    assert {name: synops[name] for name in by_hand} == by_hand
    assert sum(synops.values()) == sum(by_hand.values()) > 20_000_000


@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
def test_spikingjelly_counts_the_same(
    counting_nets: dict[str, nn.Module], cifar_test: tuple[Tensor, Tensor], mode: str
) -> None:
    op_counter = pytest.importorskip("spikingjelly.activation_based.op_counter", reason="0.0.0.0.14 has no op_counter")
    snn, images = counting_nets[mode], cifar_test[0][:2]
    snn.execution = "stepwise"
    counter = op_counter.SynOpCounter(extra_rules=sjpc.synop_rules(snn))
    with op_counter.DispatchCounterMode([counter]), torch.no_grad():
        snn.predict(images)
    counted = sjpc.count_operations(snn, [images], show_progress=False).total("synops")
    snn.execution = "spikes"
    assert counter.get_total() == round(2 * counted) > 20_000_000

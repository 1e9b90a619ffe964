"""A convolution whose gradient a CPU leaves unset in half precision is refused before training."""

import pytest
import torch
from archzoo.train.engine.half_precision import meets_padding_alone, refuse_unset_gradients
from archzoo.zoo import create_model
from torch.nn import functional as F

SMALL = {"widths": [8, 8, 16], "depths": [1, 1, 1], "in_chans": 1, "num_classes": 10}


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_an_entry_that_meets_padding_alone_has_no_gradient(kernel, stride, dilation):
    padding = dilation * (kernel // 2)
    for size in range(1, 12):
        weight = torch.ones(1, 1, kernel, dtype=torch.float64, requires_grad=True)
        image = torch.rand(1, 1, size, dtype=torch.float64) + 0.5
        F.conv1d(image, weight, None, stride, padding, dilation).sum().backward()
        assert weight.grad is not None
        found = meets_padding_alone(size, kernel, stride, padding, dilation)
        assert found == bool((weight.grad == 0).any())


def test_the_model_is_refused_in_half_precision_alone_and_left_as_it_was():
    model = create_model("resnet_tiny", **SMALL).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="3×3 kernel of stride 2 over an image of 2×2 .*amp=off"):
        refuse_unset_gradients(model, torch.rand(1, 1, 8, 8), "bf16")
    refuse_unset_gradients(model, torch.rand(1, 1, 8, 8), "off")
    refuse_unset_gradients(model, torch.rand(1, 1, 32, 32), "bf16")
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])

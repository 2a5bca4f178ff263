"""The functions that a graph in a file may call. What is not in these tables is neither saved nor loaded."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

from ..ann2snn.graph.following import cast, construct
from ..ann2snn.graph.leaves import tensor_leaf
from ..ann2snn.graph.operations import OPERATORS
from ..errors import FileError
from ..torch_compat import operator_named, qualified_name

# Python functions by their names in a file: those of this package, and arithmetic on sizes.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "tensor_leaf": tensor_leaf, "cast": cast, "construct": construct,
    **{f.__name__: f for f in (
        operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod,
        operator.neg, operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
        operator.and_, operator.or_, math.ceil, math.floor, math.trunc,
        torch.sym_max, torch.sym_min, torch.sym_not, torch.sym_float, torch.sym_int, torch.sym_ite, torch.sym_sum,
    )},
}  # fmt: skip
_NAMES: dict[object, str] = {function: name for name, function in FUNCTIONS.items()}

# ATen operators beside those of the table of operations. They compute tensors from tensors, and do nothing else.
_ANALOGUE = """
    __and__ __lshift__ __or__ __rshift__ __xor__ _cdist_forward _conj_physical _embedding_bag _fft_c2c _fft_c2r
    _fft_r2c _local_scalar_dense _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training
    _pdist_forward _reshape_alias _safe_softmax _scaled_dot_product_attention_math
    _scaled_dot_product_flash_attention_for_cpu _softmax _thnn_fused_gru_cell _thnn_fused_lstm_cell
    _trilinear _unique2 _unsafe_index _unsafe_index_put _unsafe_view _weight_norm _weight_norm_interface abs absolute
    acos acosh adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d addbmm addcdiv addcmul addr
    affine_grid_generator alias alias_copy all alpha_dropout amax amin aminmax angle any arange argmax argmin argsort
    argwhere as_strided_copy as_strided_scatter asin asinh atan atan2 atanh baddbmm bartlett_window batch_norm
    bernoulli bincount bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
    blackman_window block_diag broadcast_tensors bucketize cartesian_prod cdist ceil celu chain_matmul clamp clamp_max
    clamp_min clip complex concat concatenate conj conj_physical conv_depthwise3d conv_tbc copysign corrcoef cos cosh
    cosine_similarity count_nonzero cov cross cummax cummin cumprod deg2rad det detach_copy diag diagflat
    diagonal_copy diagonal_scatter digamma dist divide dropout elu embedding embedding_bag empty empty_permuted eq
    equal erf erfc erfinv exp exp2 expand_copy expm1 eye feature_alpha_dropout feature_dropout fft_fft fft_fft2
    fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_irfft
    fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fill fix float_power floor floor_divide fmax fmin
    fmod frac fractional_max_pool2d fractional_max_pool3d frexp frobenius_norm full gcd ge gelu ger glu greater
    greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt hamming_window hann_window
    hardshrink hardsigmoid hardswish hardtanh heaviside histc hypot i0 igamma igammac imag index_fill index_reduce
    instance_norm inverse isclose isfinite isin isinf isnan isneginf isposinf isreal istft item kaiser_window kthvalue
    layer_norm lcm ldexp le leaky_relu lerp less less_equal lgamma lift lift_fresh lift_fresh_copy linalg_cholesky
    linalg_cholesky_ex linalg_cross linalg_det linalg_diagonal linalg_eigh linalg_eigvalsh linalg_inv linalg_inv_ex
    linalg_lstsq linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power linalg_multi_dot linalg_norm
    linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_solve_triangular linalg_svd linalg_svdvals linalg_vander
    linalg_vecdot linalg_vector_norm linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp logaddexp2
    logcumsumexp logdet logical_and logical_not logical_or logical_xor logit logspace logsumexp lstm lstm_cell lt
    masked_scatter masked_select matrix_exp matrix_power max max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices max_unpool2d max_unpool3d maximum median meshgrid min minimum mish mode moveaxis mse_loss
    msort multiply mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow_copy native_channel_shuffle
    native_dropout native_group_norm native_layer_norm native_norm ne negative new_empty_strided nextafter nonzero
    nonzero_static norm norm_except_dim not_equal nuclear_norm numel one_hot ones ormqr pairwise_distance pdist
    permute_copy pinverse polar polygamma positive pow prelu prod quantile rad2deg rand rand_like randint randint_like
    randn randn_like randperm real reciprocal relu relu6 remainder renorm repeat_interleave resolve_conj resolve_neg
    rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell round rrelu rsqrt scalar_tensor scaled_dot_product_attention
    scatter_reduce searchsorted select_copy selu sgn sigmoid sign signbit silu sin sinc sinh slice_copy slogdet
    softmax softplus softshrink sort special_airy_ai special_bessel_j0 special_bessel_j1 special_digamma special_entr
    special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1 special_gammainc
    special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr
    special_log_softmax special_logit special_logsumexp special_ndtr special_ndtri special_polygamma special_psi
    special_round special_sinc special_softmax special_xlog1py special_xlogy special_zeta split_copy
    split_with_sizes_copy sqrt square squeeze_copy std std_mean stft subtract svd swapaxes swapdims sym_is_contiguous
    sym_storage_offset t_copy tan tanh threshold to topk trace transpose_copy trapezoid trapz triangular_solve
    tril_indices triu_indices true_divide trunc unbind_copy unfold_copy unique_consecutive unique_dim unsafe_chunk
    unsafe_split unsafe_split_with_sizes unsqueeze_copy vander var var_mean vdot view_as_complex view_as_real view_copy
    xlogy zero zeros
"""
ALLOWED = frozenset(OPERATORS) | frozenset(_ANALOGUE.split())


def encode_function(target: object) -> str:
    """:return: the name of a function in a file. :raises FileError: if no file may call it"""
    name = qualified_name(target)
    if name is None:
        try:
            return _NAMES[target]
        except (KeyError, TypeError):
            raise FileError(f"it calls {target!r}, which is no operator that can be saved") from None
    decode_function(name)
    return name


def decode_function(name: object) -> Callable[..., Any]:
    """
    :param name: of :func:`encode_function`, from a file that may be damaged
    :return: the function
    :raises FileError: if it is none of the tables', or this torch lacks it
    """
    if isinstance(name, str) and name in FUNCTIONS:
        return FUNCTIONS[name]
    match = re.fullmatch(r"aten::([a-zA-Z0-9_]+)(\.[a-zA-Z0-9_]+)?", name) if isinstance(name, str) else None
    if not isinstance(name, str) or match is None or match[1] not in ALLOWED:
        raise FileError(f"it calls the operator {str(name)[:80]!r}, which this version does not know")
    found: Any
    try:
        found = operator_named(name)
    except AttributeError:
        found = None
    if qualified_name(found) != name or found._schema.is_mutable:
        raise FileError(f"it calls the operator {name!r}, which torch {torch.__version__} lacks")
    return found


def check_constructor(name: object) -> None:
    """:raises FileError: if ``name``, an argument of :func:`construct`, is no operator of the table"""
    decode_function(f"aten::{name}")

r"""The Jacobian of the softmax at a temperature, from the gradients of the logits.

With $g_i = \partial z_i / \partial x$ and $F = \mathrm{softmax}(z / T)$,

$$\frac{\partial F_i}{\partial x} = \frac{1}{T} F_i \sum_l F_l (g_i - g_l)
  = \frac{1}{T} F_i (1 - F_i) \Big[ g_i - \sum_{j \ne i} w_j g_j \Big],
  \quad w_j = \frac{F_j}{1 - F_i}.$$

The first form is that of the paper's talk, $\frac{1}{T} \frac{e^{z_i / T}}{g^2(x)} \sum_l
(\partial_j z_i - \partial_j z_l) e^{z_l / T}$ with $g(x) = \sum_l e^{z_l / T}$. In the second only
the scalar $F_i (1 - F_i)$ can underflow; its logarithm cannot.
"""

import numpy as np
import numpy.typing as npt
import scipy.special

Floats = npt.NDArray[np.floating]


# Of rows by classes by images: rows of the softmax's Jacobian are taken so many at a time, so that
# memory does not grow by the square of the classes.
_MOST_ENTRIES = 2**22


def softmax_jacobian(logits: Floats, logit_gradients: Floats, temperature: float) -> Floats:
    """The Jacobian of F by the closed form of the talk; underflows where F does.

    Args:
        logits: z, shape [N, classes].
        logit_gradients: dz_i / dx_j, shape [N, classes, features].
        temperature: T > 0 at which F is evaluated.

    Returns:
        dF_i / dx_j, shape [N, classes, features].
    """
    f = scipy.special.softmax(logits / temperature, axis=-1)
    mean_gradient = np.einsum("nl,nlj->nj", f, logit_gradients)
    jacobian: Floats = f[:, :, None] * (logit_gradients - mean_gradient[:, None]) / temperature
    return jacobian


def log10_mean_abs_jacobian(
    logits: Floats, logit_gradients: Floats, temperature: float
) -> npt.NDArray[np.float64]:
    r"""Amplitude of the adversarial gradients of each image, in the log domain.

    $$\log_{10} \frac{1}{mn} \sum_{i,j} \Big| \frac{\partial F_i}{\partial x_j} \Big|$$

    over m classes and n features, exact at any scale of the logits.

    Args:
        logits: z, shape [N, classes].
        logit_gradients: dz_i / dx_j, shape [N, classes, features].
        temperature: T > 0 at which F is evaluated.

    Returns:
        Base-10 logarithms, float64, shape [N]; -inf only where the bracket itself is 0.
    """
    z = logits.astype(np.float64) / temperature
    gradients = logit_gradients.astype(np.float64)
    classes = z.shape[1]
    log_others, bracket = np.empty_like(z), np.empty_like(z)
    step = max(1, _MOST_ENTRIES // z.size)
    for first in range(0, classes, step):
        some = np.arange(first, min(first + step, classes))
        own = some[:, None] == np.arange(classes)
        without = np.where(own, -np.inf, z[:, None, :])  # row i lacks class i
        log_others[:, some] = scipy.special.logsumexp(without, axis=2)
        weights = np.exp(without - log_others[:, some, None])
        bracket[:, some] = np.abs(gradients[:, some] - weights @ gradients).mean(axis=2)
    log_sum = scipy.special.logsumexp(z, axis=1, keepdims=True)
    log_factor = (z - log_sum) + (log_others - log_sum) - np.log(temperature)
    with np.errstate(divide="ignore"):
        log_amplitude = scipy.special.logsumexp(log_factor + np.log(bracket), axis=1)
    amplitude: npt.NDArray[np.float64] = (log_amplitude - np.log(classes)) / np.log(10)
    return amplitude

"""The student's loss: its distance from the teacher and from the text (Hinton et al. 2015, arXiv:1503.02531)."""

import mlx.core as mx


def distillation_loss(
    student: mx.array, teacher: mx.array, ids: mx.array, temperature: float, cross_entropy: float
) -> mx.array:
    """The mean over tokens of temperature² times the divergence of softened distributions, and of the text's own loss.

    student, teacher: (rows, length, vocab_size) float32 logits; ids: (rows, length) the text they were made for
    cross_entropy: weight of the text's loss, 0 to 1; the divergence has the rest
    Returns a scalar in nats.
    """
    loss = mx.zeros(())
    if cross_entropy < 1.0:
        loss = loss + (1.0 - cross_entropy) * temperature**2 * _divergence(student / temperature, teacher / temperature)
    if cross_entropy > 0.0:
        loss = loss + cross_entropy * _text_loss(student[:, :-1], ids[:, 1:])
    return loss


def _divergence(student: mx.array, teacher: mx.array) -> mx.array:
    wanted = teacher - mx.logsumexp(teacher, axis=-1, keepdims=True)
    found = student - mx.logsumexp(student, axis=-1, keepdims=True)
    return mx.mean(mx.sum(mx.exp(wanted) * (wanted - found), axis=-1))


def _text_loss(logits: mx.array, targets: mx.array) -> mx.array:
    chosen = mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return mx.mean(mx.logsumexp(logits, axis=-1) - chosen)

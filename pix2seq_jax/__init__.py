"""Pix2Seq and Pix2Seq v2 in JAX: vision tasks as language modelling."""

__version__ = "0.1.0"


def load(workdir, **options):
    """The model of a workdir as a `evaluation.predictor.Predictor`; see `predictor.load`.

    Nothing is imported before this is called.
    """
    from pix2seq_jax.evaluation import predictor

    return predictor.load(workdir, **options)

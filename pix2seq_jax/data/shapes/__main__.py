"""`python -m pix2seq_jax.data.shapes --out=data/shapes` draws the embedded data."""

from pix2seq_jax.data.shapes.dataset import main

if __name__ == "__main__":
    main()

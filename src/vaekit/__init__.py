"""vaekit: a variational autoencoder from your own data, and every job that it is for."""

__version__ = "0.1.0"

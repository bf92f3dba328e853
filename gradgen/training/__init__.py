"""Training of a bundle's networks: classifier and encoder, generator, discriminator.

``gradgen train`` runs :mod:`gradgen.training.classifier`, then
:mod:`gradgen.training.adversarial`, then :mod:`gradgen.training.export`.
"""

"""Examples of every component, one module an area, for the contract that `test_component.py` holds all of them to.

A module has

    EXAMPLES   registered name -> functions that make small instances, with latents (2,) and examples (3,) where it can be
    NUMBERS    class -> function(component) -> Tensor, for a class that is called in a way of its own: its output at a fixed
               input, the same for the same weights and seed (torch is seeded before), through which gradients reach every
               parameter; left out where the general rule of `test_component.numbers` fits
"""

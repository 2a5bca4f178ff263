"""TEMPORARY"""
from spikingjelly.activation_based import ann2snn
from spikingjelly.activation_based.base import MemoryModule, MultiStepModule
from spikingjelly.activation_based.layer import StepModeContainer
ModuleConversionRecipe = getattr(ann2snn, "ModuleConversionRecipe", object)

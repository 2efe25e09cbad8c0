"""The model: a LLaVA with a channel-adaptive vision tower, registered with the Auto classes."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from vlm.configuration import CellPaintingVisionConfig, CellPaintingVlmConfig
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.openphenom import OpenPhenomBackbone, OpenPhenomConfig
from vlm.processing import CellPaintingImageProcessor, CellPaintingProcessor
from vlm.vision_tower import CellPaintingVisionTower

AutoConfig.register(CellPaintingVisionConfig.model_type, CellPaintingVisionConfig)
AutoConfig.register(CellPaintingVlmConfig.model_type, CellPaintingVlmConfig)
AutoConfig.register(OpenPhenomConfig.model_type, OpenPhenomConfig)
AutoModel.register(CellPaintingVisionConfig, CellPaintingVisionTower)
AutoBackbone.register(OpenPhenomConfig, OpenPhenomBackbone)
AutoModelForImageTextToText.register(CellPaintingVlmConfig, CellPaintingVlmForConditionalGeneration)
AutoProcessor.register(CellPaintingVlmConfig, CellPaintingProcessor)
AutoImageProcessor.register(
    CellPaintingVlmConfig, slow_image_processor_class=CellPaintingImageProcessor
)

__all__ = [
    "CellPaintingImageProcessor",
    "CellPaintingProcessor",
    "CellPaintingVisionConfig",
    "CellPaintingVisionTower",
    "CellPaintingVlmConfig",
    "CellPaintingVlmForConditionalGeneration",
]

"""Caption metrics: tokens as the COCO evaluation cuts them, BLEU, ROUGE-L, CIDEr, METEOR."""

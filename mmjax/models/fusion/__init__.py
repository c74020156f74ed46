"""Models in which text and image attend to each other: ViLBERT, LXMERT, UNITER, VisualBERT, ViLT, ALBEF, and BERT."""

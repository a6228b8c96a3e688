"""What is seen, as markup: curves, tables, answers, texts. No NiceGUI, so for reports and notebooks too."""

// Constants of `export/preprocessing/input_contract.py`, which gives their reasons. A test compares both files.

export const BOX = 20;
export const FIELD = 28;
export const SLACK = 2;
export const WORKING = 160;
export const REDUCTION = 8;
export const WINDOW = 0.4;
export const WIDEST = 127;
export const LOCAL = 0.4;
export const PALE = 0.25;
export const FULL = 0.75;
export const STROKE = 0.1;
export const SPECKLED = 64;
export const CELL = 4;
export const FAINTEST = 24;
export const CANDIDATES = 4;
export const SPECK = 0.005;
export const PART = 0.04;
export const NEAR = 0.35;
export const MARGIN = 1.0;
export const MOST_PIXELS = 50_000_000;
export const MOST_SIDE = 32_767;
export const SCHEMA = 3;
export const PROBABILITIES_OF_CLASSES = "probabilities";
export const INDEPENDENT = "independent";
export const THRESHOLD = 0.5;

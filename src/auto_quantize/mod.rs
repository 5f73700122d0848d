//! The choice of a format for each group of layers.

pub mod knapsack;

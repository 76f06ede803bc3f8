"use strict";
document.documentElement.dataset.errors = 0;
addEventListener("error", () => document.documentElement.dataset.errors++);
addEventListener("unhandledrejection", () => document.documentElement.dataset.errors++);

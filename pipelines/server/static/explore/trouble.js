// What goes wrong behind a slider or a button is said on the page, and not only in the browser's console.

export const TROUBLE = "trouble";

// The same action, whose failures become an event that the page shows.
export const careful = (action) => async (...values) => {
  try {
    await action(...values);
  } catch (error) {
    document.dispatchEvent(new CustomEvent(TROUBLE, { detail: error.message }));
  }
};

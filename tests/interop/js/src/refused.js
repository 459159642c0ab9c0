/** Somebody's bytes broke a rule. Rules have the names of docs/spec.md, section 15, where it has one for it. */
export class Refused extends Error {
  constructor (rule, detail = '') {
    super(detail)
    this.rule = rule
  }
}

// node verify_audit.js GENESIS FILE…: what each audit file proves, one JSON line each; no packages, no network.
// Exit code 0: all hold.
import { readFileSync } from 'node:fs'
import { verifyAudit } from './audit.js'
import { Genesis } from './chain.js'
import { Refused } from './refused.js'

const [, , genesisFile, ...files] = process.argv
const genesis = new Genesis(genesisFile)
for (const file of files) {
  try {
    console.log(JSON.stringify({ ok: true, ...verifyAudit(genesis, readFileSync(file)) }))
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    console.log(JSON.stringify({ ok: false, rule: error.rule, detail: error.message }))
    process.exitCode = 1
  }
}

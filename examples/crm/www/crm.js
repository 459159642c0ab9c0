// Shows customers.tsv as a table that can be searched. Data is set as text, never as markup.
const table = document.getElementById('customers')
const search = document.getElementById('search')
let rows = []
const show = () => {
  const word = search.value.toLowerCase()
  table.replaceChildren(...rows.filter((row, i) => i === 0 || row.join(' ').toLowerCase().includes(word))
    .map((row, i) => {
      const line = document.createElement('tr')
      line.append(...row.map((text) => Object.assign(document.createElement(i ? 'td' : 'th'), { textContent: text })))
      return line
    }))
}
search.addEventListener('input', show)
fetch('about.json').then((r) => r.json()).then((about) => {
  document.getElementById('company').textContent = `${about.company}: customers`
})
fetch('customers.tsv').then((r) => r.text()).then((text) => {
  rows = text.trim().split('\n').map((line) => line.split('\t'))
  show()
})
